"""Columns have shapes, and those that every dataset has hold values in their ranges."""

import numpy as np
import pytest

from pcrstore.errors import FormatError, UnsupportedFormatError
from pcrstore.format.columns import COLUMNS, FORMATS, Column, Ranges

RANGES = Ranges(n_classes=2, n_splits=3)


def column(dtype="<i4", shape=()):
    return Column(name="x", dtype=dtype, shape=shape)


SHAPES = {  # shape, of a row, items of a row, and whether values have any number of rows
    "one": ((), (), 1, False),
    "three": ((3,), (3,), 3, False),
    "rows-of-four": ((3, 4), (3, 4), 12, False),
    "any": ((None,), (), 1, True),
    "boxes": ((None, 4), (4,), 4, True),
}


@pytest.mark.parametrize(("shape", "row", "n", "ragged"), SHAPES.values(), ids=SHAPES)
def test_a_column_describes_its_values(shape, row, n, ragged):
    for dtype, is_text in (("<f4", False), ("utf8", True)):
        c = column(dtype, shape)
        assert (c.row_shape, c.n_items, c.is_ragged, c.is_text) == (row, n, ragged, is_text)
        assert c.is_array == (not is_text and not ragged)
    assert column("<f4", shape).item == np.dtype("<f4")


KNOWN = [
    *("|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8"),
    *("utf8", "json", "bytes"),
]
LATER = ["", "f4", ">f4", "=f4", "<f16", "|O", "|V9", "<U4", "|S4", "<M8[s]", "<c8", "UTF8", "b1"]


@pytest.mark.parametrize("dtype", [*KNOWN, *LATER])
def test_types_are_those_of_the_format(dtype):
    c = column(dtype)
    assert c.is_known == (dtype in KNOWN)
    if dtype in KNOWN:
        c.require_known("here")
        return
    with pytest.raises(UnsupportedFormatError, match=r"^here: column x has .*; upgrade pcrstore$"):
        c.require_known("here")


def test_every_dataset_has_columns_of_types_that_are_known():
    assert {c.name for c in COLUMNS if not c.is_known} == set()
    for c in COLUMNS:
        c.check("here")


@pytest.mark.parametrize(
    ("dtype", "fine", "beyond"),
    [
        ("<i4", (None, 4), (4, None)),
        ("<i4", (65_536,), (256, 257)),
        ("utf8", (None,), (None, 1)),
        ("json", (3,), (3, 1)),
        ("bytes", (), (1, 1)),
    ],
)
def test_a_shape_has_bounds(dtype, fine, beyond):
    Column(name="mine", dtype=dtype, shape=fine).check("here")
    with pytest.raises(FormatError, match=r"^here: shape must be"):
        Column(name="mine", dtype=dtype, shape=beyond).check("here")


CHECKED = {  # column, a value in its range, one beyond it
    "key-least": ("key", "k", ""),
    "key-most": ("key", "k" * 1024, "k" * 1025),
    "key-of-two-bytes-each": ("key", "\u00e9" * 512, "\u00e9" * 512 + "k"),
    "key-of-four-bytes-each": ("key", "\U0001f431" * 256, "\U0001f431" * 256 + "k"),
    "label-least": ("label", -1, -2),
    "label-most": ("label", 1, 2),
    "label-of-32-bits": ("label", 0, 2**31 - 1),
    "label-minus": ("label", 0, -(2**31)),
    "split-most": ("split", 2, 3),
    "split-none": ("split", 255, 254),
    "orientation-least": ("orientation", 1, 0),
    "orientation-most": ("orientation", 8, 9),
    "width-most": ("width", 65_535, 65_536),
    "width-of-32-bits": ("width", 0, 2**32 - 1),
    "height-most": ("height", 65_535, 65_536),
}


@pytest.mark.parametrize(("name", "fine", "beyond"), CHECKED.values(), ids=CHECKED)
def test_values_are_held_to_their_ranges(name, fine, beyond):
    c = next(c for c in COLUMNS if c.name == name)
    as_stored = list if c.is_text else lambda some: np.array(some, c.dtype)
    RANGES.check(name, as_stored([fine] * 5), "here")
    with pytest.raises(FormatError, match=f"^here: {name} of row 3 must (be|have)"):
        RANGES.check(name, as_stored([fine] * 3 + [beyond] * 2), "here")


def test_without_classes_and_splits_there_is_no_value_but_none():
    empty = Ranges(n_classes=0, n_splits=0)
    empty.check("label", np.array([-1], "<i4"), "here")
    empty.check("split", np.array([255], "|u1"), "here")
    for name, value in (("label", 0), ("split", 0)):
        with pytest.raises(FormatError, match=f"here: {name} of row 0 must be"):
            empty.check(name, np.array([value]), "here")
    all_splits = Ranges(n_classes=0, n_splits=255)
    all_splits.check("split", np.arange(256).astype("|u1"), "here")


def test_a_message_says_bytes_of_a_key_and_not_characters():
    with pytest.raises(FormatError, match=r"1 to 1024 bytes, got 1026$"):
        RANGES.check("key", ["\u00e9" * 513], "here")


@pytest.mark.parametrize("value", [3, 255])
def test_an_image_format_of_a_later_version_asks_for_an_upgrade(value):
    RANGES.check("format", np.array([*FORMATS], "|u1"), "here")
    message = f"^here: row 1 has image format {value}, .*; upgrade pcrstore$"
    with pytest.raises(UnsupportedFormatError, match=message):
        RANGES.check("format", np.array([0, value], "|u1"), "here")


@pytest.mark.parametrize("name", ["source_bytes", "source_sha256", "quality.ms_ssim", "mine"])
def test_other_columns_may_hold_anything(name):
    RANGES.check(name, np.array([0, 2**64 - 1], "<u8"), "here")
