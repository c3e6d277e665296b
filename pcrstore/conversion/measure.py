"""Measure the quality of each fidelity on a sample of the images.

The sample is 2 % of the images, 16 to 256 of them. MS-SSIM compares each fidelity with full
fidelity, on the luma.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.conversion.packing import shuffled
from pcrstore.image import decode, ms_ssim
from pcrstore.jpeg import decodable

__all__ = ["measure", "measured_keys"]

_MIN_MEASURED: Final = 16
_MAX_MEASURED: Final = 256
"""Bounds on the size of the sample. At 256 the mean's standard error is below 0.002 on ImageNet."""

_SEED: Final = 0x7063
"""Seed of the sample: the same images are measured whatever the options are."""

_MAX_SIDE: Final = 1024
"""Quality is measured on at most this many pixels a side, cut from the middle."""


def measured_keys(keys: Sequence[str]) -> frozenset[str]:
    """Return the keys of the images to measure.

    The sample depends on the keys alone, so that two conversions of a source can be compared.
    """
    n = min(max(_MIN_MEASURED, len(keys) // 50), _MAX_MEASURED)
    return frozenset(keys[i] for i in shuffled(keys, seed=_SEED)[:n])


def measure(groups: Sequence[bytes]) -> tuple[float, ...]:
    """Return the MS-SSIM of the luma at fidelity 1..G against fidelity G, as `read` decodes."""
    n = len(groups)
    *lower, reference = (_luma(decodable(groups[:k], n, opaque=False)) for k in range(1, n + 1))
    return (*(ms_ssim(reference, luma) for luma in lower), 1.0)


def _luma(jpeg: bytes) -> NDArray[np.uint8]:
    """Decode to BT.601 luma, cut to at most `_MAX_SIDE` pixels a side."""
    rgb = decode(jpeg)
    h, w = rgb.shape[:2]
    y, x = max(0, h - _MAX_SIDE) // 2, max(0, w - _MAX_SIDE) // 2
    cut = rgb[y : y + _MAX_SIDE, x : x + _MAX_SIDE].astype(np.float32)
    luma = cut @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.rint(luma), np.uint8)
