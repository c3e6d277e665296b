"""Manifests of datasets whose bytes and quality by fidelity are known."""

from index_parts import manifest
from msgspec.structs import replace

from pcrstore.format.manifest import MS_SSIM, Measurement, Totals

G = 5
SIZES = (40, 200, 310, 600, 1000)
"""Cumulative bytes of an image."""
SSIM = (0.8, 0.9, 0.95, 0.99, 1.0)


def measured(mean):
    """The measurement of MS-SSIM of two images that are alike."""
    return Measurement(
        metric=MS_SSIM, n_images=2, mean=mean, low=mean, high=mean, percentiles={"5": mean}
    )


def a_manifest(n=100, groups=G):
    """The manifest of a dataset of `n` images and some groups."""
    cells = tuple(int(b - a) * n for a, b in zip((0, *SIZES), SIZES[:groups], strict=False))
    return replace(
        manifest(),
        n_images=n,
        group_labels=tuple("abcdefg"[:groups]),
        totals=Totals(sources=n * 2000, groups=cells, headers=50, restore=5),
        quality=(measured(SSIM[:groups]),),
    )
