"""Manifests of datasets whose bytes and quality by fidelity are known."""

from dataclasses import replace

from index_parts import manifest

from pcrstore.format.manifest import Quality, Totals

G = 5
SIZES = (40, 200, 310, 600, 1000)
"""Cumulative bytes of an image."""
SSIM = (0.8, 0.9, 0.95, 0.99, 1.0)


def a_manifest(n=100, groups=G):
    """The manifest of a dataset of `n` images and some groups."""
    cells = tuple(int(b - a) * n for a, b in zip((0, *SIZES), SIZES[:groups], strict=False))
    return replace(
        manifest(),
        n_images=n,
        group_labels=tuple("abcdefg"[:groups]),
        totals=Totals(sources=n * 2000, groups=cells, headers=50, restore=5),
        quality=Quality(n_images=2, ms_ssim=SSIM[:groups], ms_ssim_p05=SSIM[:groups]),
    )
