"""MS-SSIM against the plainest way to write it, and what it must do."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_files import picture
from PIL import Image

from pcrstore.errors import OptionError
from pcrstore.image.similarity import ms_ssim

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def plain_ms_ssim(x, y):
    """Window by window, as the formula reads."""
    x, y = x.astype(float), y.astype(float)
    n = sum(min(x.shape) >= 11 * 2**k for k in range(5)) or 1
    result = 1.0
    for k in range(n):
        if k:
            x, y = halved(x), halved(y)
        windows = [min(11, side) for side in x.shape]
        gauss = [np.exp(-((np.arange(t) - (t - 1) / 2) ** 2) / (2 * 1.5**2)) for t in windows]
        weight = np.outer(*gauss) / np.outer(*gauss).sum()
        values = []
        for i in range(x.shape[0] - windows[0] + 1):
            for j in range(x.shape[1] - windows[1] + 1):
                a, b = (p[i : i + windows[0], j : j + windows[1]] for p in (x, y))
                ma, mb = (weight * a).sum(), (weight * b).sum()
                va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
                cov = (weight * (a - ma) * (b - mb)).sum()
                value = (2 * cov + 58.5225) / (va + vb + 58.5225)
                if k == n - 1:
                    value *= (2 * ma * mb + 6.5025) / (ma * ma + mb * mb + 6.5025)
                values.append(value)
        result *= max(np.mean(values), 0) ** (WEIGHTS[k] / sum(WEIGHTS[:n]))
    return result


def halved(x):
    out = np.zeros((x.shape[0] // 2, x.shape[1] // 2))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
    return out


def noisy(x, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, x.shape)
    return (x + noise).clip(0, 255).astype(np.uint8)


SIZES = {
    "one-sample": (1, 1),
    "under-one-window": (10, 13),
    "thin": (3, 60),
    "one-window": (11, 11),
    "one-scale": (21, 40),
    "two-scales": (22, 40),
    "tile": (42, 42),
    "tile-and-1": (43, 43),
    "just-under-three": (43, 50),
    "three-scales": (44, 50),
    "odd-sides": (47, 61),
    "just-under-five": (90, 175),
    "tall": (100, 45),
}


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_it_is_the_formula(shape):
    x = picture(*shape, 1)[..., 0]
    for y in (noisy(x, 12), 255 - x, noisy(x // 2, 3)):
        assert ms_ssim(x, y) == pytest.approx(plain_ms_ssim(x, y), abs=1e-8)


@pytest.mark.parametrize("side", [175, 176])
def test_it_is_the_formula_around_five_scales(side):
    x = picture(side, 180, 1)[..., 0]
    y = noisy(x, 12)
    assert ms_ssim(x, y) == pytest.approx(plain_ms_ssim(x, y), abs=1e-8)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 255))
def test_an_image_equals_itself_exactly(height, width, seed):
    x = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    assert ms_ssim(x, x.copy()) == 1.0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_it_is_symmetric_and_within_0_and_1(height, width, seed):
    x, y = np.random.default_rng(seed).integers(0, 256, (2, height, width), dtype=np.uint8)
    assert ms_ssim(x, y) == ms_ssim(y, x)
    assert 0 <= ms_ssim(x, y) <= 1


def test_it_grows_with_jpeg_quality():
    x = picture(240, 320, 1)[..., 0]
    values = []
    for quality in (5, 15, 30, 60, 90):
        out = io.BytesIO()
        Image.fromarray(x).save(out, "JPEG", quality=quality)
        values.append(ms_ssim(x, np.asarray(Image.open(out))))
    assert values == sorted(values)
    assert values[0] < 0.95 < values[-1] < 1


def test_flat_images_differ_by_luminance_alone():
    black, white = np.zeros((20, 20), np.uint8), np.full((20, 20), 255, np.uint8)
    assert ms_ssim(black, white) == pytest.approx(6.5025 / (255**2 + 6.5025), abs=1e-9)


def test_arguments_are_not_written_to_and_may_be_views():
    x = picture(60, 80, 3)
    x.setflags(write=False)
    a, b = x[::-1, :, 0], x[..., 1].T
    assert ms_ssim(a, a) == 1
    assert ms_ssim(b, b) == 1


SHAPES = {
    "other-size": ((4, 5), (4, 6)),
    "transposed": ((4, 5), (5, 4)),
    "colour": ((4, 5, 3), (4, 5, 3)),
    "line": ((4,), (4,)),
    "empty": ((0, 5), (0, 5)),
}


@pytest.mark.parametrize(("left", "right"), SHAPES.values(), ids=SHAPES)
def test_other_shapes_are_refused(left, right):
    with pytest.raises(OptionError, match="two grey images of one size expected"):
        ms_ssim(np.zeros(left, np.uint8), np.zeros(right, np.uint8))
