"""Crops: torchvision's boxes, inside every image, and spread as the options say."""

import math
import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.core.hashing import key_of, uniforms
from pcrstore.errors import OptionError
from pcrstore.image.crops import Box, CenterCrop, RandomResizedCrop, Squash

CROPS = [RandomResizedCrop(), CenterCrop(), Squash()]


def draws_of(seed, n):
    """Draws of n samples as the loader makes them."""
    keys = np.array([key_of(seed, i) for i in range(n)], np.uint64)
    return uniforms(keys, RandomResizedCrop.n_draws).tolist()


def torchvisions(width, height, draws, scale, ratio):
    """(top, left, height, width) by get_params of torchvision 0.21, its random numbers given."""
    area = height * width
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for i in range(10):
        target_area = area * (draws[2 * i] * (scale[1] - scale[0]) + scale[0])
        aspect_ratio = math.exp(draws[2 * i + 1] * (log_ratio[1] - log_ratio[0]) + log_ratio[0])
        w = int(round(math.sqrt(target_area * aspect_ratio)))  # noqa: RUF046 - as it stands there
        h = int(round(math.sqrt(target_area / aspect_ratio)))  # noqa: RUF046
        if 0 < w <= width and 0 < h <= height:
            return int(draws[20] * (height - h + 1)), int(draws[21] * (width - w + 1)), h, w
    in_ratio = float(width) / float(height)
    if in_ratio < min(ratio):
        w = width
        h = int(round(w / min(ratio)))  # noqa: RUF046
    elif in_ratio > max(ratio):
        h = height
        w = int(round(h * max(ratio)))  # noqa: RUF046
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


SIZES = [(500, 375), (375, 500), (1, 1), (7, 3), (2, 900), (900, 2), (65535, 1), (1, 65535)]
OPTIONS = {
    "usual": ((0.08, 1.0), (3 / 4, 4 / 3)),
    "fixed": ((0.5, 0.5), (1.0, 1.0)),
    "whole": ((1.0, 1.0), (1.0, 1.0)),
    "tall": ((0.9, 1.0), (0.2, 0.3)),
    "wide": ((0.9, 1.0), (3.0, 5.0)),
}


@pytest.mark.parametrize(("scale", "ratio"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_are_torchvisions(width, height, scale, ratio):
    crop = RandomResizedCrop(scale=scale, ratio=ratio)
    for draws in draws_of(1, 200):
        top, left, h, w = torchvisions(width, height, draws, scale, ratio)
        box = crop.box(width, height, draws)
        if h > 0 and w > 0:  # torchvision's fallback makes an empty box of 1 pixel x extreme ratio
            assert (box.top, box.left, box.bottom, box.right) == (top, left, top + h, left + w)


bounds = st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted).map(tuple)
ratios = st.tuples(st.floats(0.001, 1000), st.floats(0.001, 1000)).map(sorted).map(tuple)
sides = st.one_of(st.integers(1, 9), st.integers(1, 65535))
draw = st.floats(0, 1, exclude_max=True)
crops = st.one_of(
    st.builds(RandomResizedCrop, scale=bounds, ratio=ratios, flip=st.floats(0, 1)),
    st.builds(CenterCrop, fraction=st.floats(0.001, 1)),
    st.just(Squash()),
)


@given(crops, sides, sides, st.lists(draw, min_size=23, max_size=23))
def test_a_box_is_inside_its_image_and_not_empty(crop, width, height, draws):
    box = crop.box(width, height, draws[: crop.n_draws])
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    if isinstance(crop, RandomResizedCrop):
        assert all(isinstance(v, int) for v in (box.left, box.top, box.right, box.bottom))


@pytest.mark.parametrize("width", [1, 2, 65535])
@pytest.mark.parametrize("height", [1, 2, 65535])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("all_draws", [0.0, 1 - 2**-53])
def test_the_ends_of_the_draws_stay_inside(width, height, crop, all_draws):
    box = crop.box(width, height, [all_draws] * 23)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height


def test_areas_ratios_places_and_flips_are_spread_as_asked():
    boxes = [RandomResizedCrop().box(4000, 4000, draws) for draws in draws_of(2, 20_000)]
    w = np.array([b.right - b.left for b in boxes])
    h = np.array([b.bottom - b.top for b in boxes])
    area, log_ratio = w * h / 4000**2, np.log(w / h)
    # Large boxes of an unequal ratio do not fit and are drawn again, so small areas are uniform.
    small = area[area < 0.7]
    assert area.min() == pytest.approx(0.08, abs=0.002)
    for cut in (0.2, 0.4, 0.55):
        assert (small < cut).mean() == pytest.approx((cut - 0.08) / 0.62, abs=0.02)
    free = log_ratio[area < 0.7] / np.log(4 / 3)
    assert abs(free).max() <= 1.001
    for cut in (-0.5, 0.0, 0.5):
        assert (free < cut).mean() == pytest.approx((cut + 1) / 2, abs=0.02)
    across = np.array([b.left / (4000 - (b.right - b.left) + 1) for b in boxes])
    down = np.array([b.top / (4000 - (b.bottom - b.top) + 1) for b in boxes])
    for place in (across, down):
        assert place.mean() == pytest.approx(0.5, abs=0.01)
        assert (place < 0.25).mean() == pytest.approx(0.25, abs=0.015)
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.03
    assert np.mean([b.mirrored for b in boxes]) == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize(
    ("flip", "drawn", "mirrored"),
    [(0.0, 0.0, False), (1.0, 1 - 2**-53, True), (0.5, 0.499, True), (0.5, 0.5, False)],
)
def test_the_last_draw_mirrors(flip, drawn, mirrored):
    draws = [0.5] * 22 + [drawn]
    assert RandomResizedCrop(flip=flip).box(50, 40, draws).mirrored is mirrored


def test_each_draw_has_its_place():
    crop = RandomResizedCrop()
    usual = crop.box(400, 400, [0.3] * 23)

    def with_draw(i, value):
        return crop.box(400, 400, [value if j == i else 0.3 for j in range(23)])

    assert with_draw(2, 0.9) == usual  # the second try is not reached
    assert with_draw(20, 0.9).left == usual.left
    assert with_draw(20, 0.9).top > usual.top
    assert with_draw(21, 0.9).top == usual.top
    assert with_draw(21, 0.9).left > usual.left


def test_the_second_try_follows_the_first():
    draws = [1 - 2**-53, 0.9, 0.0, 0.5] + [0.0] * 19  # all of the area at 1.25 : 1 does not fit
    box = RandomResizedCrop().box(100, 100, draws)
    assert (box.right, box.bottom) == (28, 28)


@pytest.mark.parametrize(("before", "side"), [(0, 28), (9, 28), (10, 100)])
def test_there_are_ten_tries(before, side):
    unfit, fit = [1 - 2**-53, 0.9], [0.0, 0.5]
    draws = (unfit * before + fit * 10)[:20] + [0.0] * 3
    box = RandomResizedCrop().box(100, 100, draws)
    assert (box.right, box.bottom) == (side, side)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1000, 10, (493, 0, 506, 10)),  # 13 = round(10 * 4 / 3)
        (10, 1000, (0, 493, 10, 506)),
        (40, 30, (0, 0, 40, 30)),  # a ratio that is allowed: all of it
    ],
)
def test_where_no_try_fits_it_is_the_largest_in_the_middle(width, height, expected):
    # All of the area at a ratio on the other side.
    draws = [1 - 2**-53, 0.0 if width >= height else 1 - 2**-53] * 10 + [0.9, 0.9, 0.9]
    box = RandomResizedCrop().box(width, height, draws)
    assert (box.left, box.top, box.right, box.bottom) == expected


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (256, 256, Box(left=16, top=16, right=240, bottom=240)),
        (512, 256, Box(left=144, top=16, right=368, bottom=240)),
        (256, 512, Box(left=16, top=144, right=240, bottom=368)),
        (1, 1, Box(left=0.0625, top=0.0625, right=0.9375, bottom=0.9375)),
    ],
)
def test_the_centre_is_a_square_of_the_shorter_side(width, height, box):
    assert CenterCrop().box(width, height, []) == box


def test_squash_takes_everything():
    assert Squash().box(7, 5, []) == Box(left=0, top=0, right=7, bottom=5, mirrored=False)


WRONG = {
    "scale-0": {"scale": (0.0, 1.0)},
    "scale-over-1": {"scale": (0.1, 1.01)},
    "scale-order": {"scale": (0.5, 0.4)},
    "scale-nan": {"scale": (math.nan, 1.0)},
    "ratio-0": {"ratio": (0.0, 1.0)},
    "ratio-order": {"ratio": (2.0, 1.0)},
    "ratio-infinite": {"ratio": (1.0, math.inf)},
    "flip-under-0": {"flip": -0.01},
    "flip-over-1": {"flip": 1.01},
    "flip-nan": {"flip": math.nan},
    "scale-number": {"scale": 1},
    "scale-one": {"scale": (0.5,)},
    "scale-three": {"scale": (0.1, 0.2, 0.3)},
    "scale-text": {"scale": "01"},
    "scale-of-text": {"scale": ("0.1", "1")},
    "scale-none": {"scale": None},
    "scale-booleans": {"scale": (True, True)},
    "ratio-number": {"ratio": 4 / 3},
    "ratio-too-large": {"ratio": (1, 10**400)},
    "flip-text": {"flip": "x"},
    "flip-boolean": {"flip": True},
    "flip-none": {"flip": None},
}


@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_refused(options):
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
        RandomResizedCrop(**options)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.001, math.nan, "1", None, True, [1.0]], ids=repr)
def test_a_wrong_fraction_is_refused(fraction):
    with pytest.raises(OptionError, match="fraction must be"):
        CenterCrop(fraction=fraction)


def test_the_ends_of_the_options_are_allowed():
    RandomResizedCrop(scale=(1e-9, 1.0), ratio=(1e-9, 1e9), flip=0.0)
    assert CenterCrop(fraction=1.0).box(4, 3, []) == Box(left=0.5, top=0, right=3.5, bottom=3)


def test_options_may_be_of_any_numbers_and_in_lists():
    crop = RandomResizedCrop(scale=[np.float32(0.5), 1], ratio=(1, np.int64(2)), flip=0)
    assert crop == RandomResizedCrop(scale=(0.5, 1.0), ratio=(1.0, 2.0), flip=0.0)
    assert hash(crop)


@pytest.mark.parametrize("crop", CROPS)
def test_crops_travel_to_workers(crop):
    assert pickle.loads(pickle.dumps(crop)) == crop  # noqa: S301 - our own


def test_a_box_costs_little():
    crop, draws = RandomResizedCrop(), draws_of(3, 500)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        for row in draws:
            crop.box(500, 375, row)
        best = min(best, time.perf_counter() - started)
    assert best / len(draws) < 20e-6  # 2 us on the machine that it was written on
