"""Values of a column come back from their bytes, and other bytes are refused."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from index_parts import column_values, part, rows

from pcrstore.errors import FormatError, UnsupportedFormatError
from pcrstore.format.column_values import (
    has_nulls,
    masked,
    null_values,
    pack_values,
    unpack_values,
)
from pcrstore.format.columns import COLUMNS, Column
from pcrstore.format.index_pages import decode_directory
from pcrstore.format.index_rows import concat, decode_part

NUMBERS = ["|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8"]
TEXTS = ["utf8", "json", "bytes"]
SHAPES = [(), (3,), (2, 3), (None,), (None, 4), (None, 2, 1)]


def column(dtype="<i4", shape=(), name="x"):
    return Column(name=name, dtype=dtype, shape=shape)


def nested(items, shape):
    """Lists of lists of a shape, whose first item may be None."""
    for n in reversed(shape):
        sizes = {"max_size": 3} if n is None else {"min_size": n, "max_size": n}
        items = st.lists(items, **sizes)
    return items


def some_values(c):
    """Values of a column, with and without nulls: what a writer may be given."""
    if c.is_text:
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
        value = nested(st.binary(max_size=4) if c.dtype == "bytes" else text, c.shape)
        return st.lists(value | st.none(), min_size=1, max_size=9) | st.lists(
            value, min_size=1, max_size=9
        )
    dtype = np.dtype(c.dtype)
    if c.is_ragged:
        value = st.integers(0, 3).flatmap(lambda n: hnp.arrays(dtype, (n, *c.row_shape)))
        return st.lists(value | st.none(), min_size=1, max_size=9)

    def with_mask(n):
        array = hnp.arrays(dtype, (n, *c.row_shape))
        mask = st.lists(st.booleans(), min_size=n, max_size=n)
        return array | st.builds(masked_rows, array, mask)

    return st.integers(1, 9).flatmap(with_mask)


def masked_rows(array, mask):
    rows = np.reshape(np.array(mask, bool), (-1,) + (1,) * (array.ndim - 1))
    return np.ma.MaskedArray(array, np.broadcast_to(rows, array.shape))


def same(a, b):
    """Equal values, of equal types, with NaN equal to itself."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        masks = np.array_equal(np.ma.getmaskarray(a), np.ma.getmaskarray(b))
        x, y = (np.ma.filled(np.ma.asarray(v), 0) for v in (a, b))
        return masks and x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("dtype", [*NUMBERS, *TEXTS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=12)
@given(data=st.data())
def test_values_round_trip(dtype, shape, data):
    c = column(dtype, shape)
    values = data.draw(some_values(c))
    n, nulls = len(values), has_nulls(values)
    raw = pack_values(c, values, nulls=nulls)
    assert same(unpack_values(c, raw, n, nulls=nulls, where="here"), values)
    if not nulls:  # a block may say that it has nulls where a page of it has none
        raw = pack_values(c, values, nulls=True)
        assert same(unpack_values(c, raw, n, nulls=True, where="here"), values)


@pytest.mark.parametrize("dtype", ["<f4", *TEXTS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_values_have_no_bytes(dtype, shape):
    c = column(dtype, shape)
    for nulls in (False, True):
        empty = null_values(c, 0, where="here")
        assert pack_values(c, empty, nulls=nulls) == b""
        assert same(unpack_values(c, b"", 0, nulls=nulls, where="here"), empty)


BOXES = [np.arange(8, dtype="<f4").reshape(2, 4), None, np.zeros((0, 4), "<f4")]
EXTRA = {
    "score": (column("<f4"), masked_rows(np.arange(5, dtype="<f4"), [0, 1, 0, 0, 1])),
    "rgb": (column("|u1", (3,)), masked_rows(np.ones((5, 3), "|u1"), [1, 0, 1, 0, 0])),
    "none-is-null": (column("<u2"), np.arange(5).astype("<u2")),
    "all-are-null": (column("<i8", (2,)), masked((5, 2), np.dtype("<i8"))),
    "boxes": (column("<f4", (None, 4)), [*BOXES, None, BOXES[0]]),
    "caption": (column("utf8"), ["a", None, "", "\u00e9", None]),
    "tags": (column("utf8", (None,)), [["a", "bc"], None, [], [""], None]),
    "pair": (column("bytes", (2,)), [[b"a", b"\xff"], None, [b"", b""], [b"b", b""], None]),
    "json": (column("json"), ['{"a": [1]}', "null", None, "1", '""']),
}  # fmt: skip


@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("step", [1, 2, 4096])
def test_values_come_back_from_their_part(name, step, monkeypatch):
    """Also where the null values are in some pages alone."""
    monkeypatch.setattr("pcrstore.format.index_pages._ROWS_PER_PAGE", step)
    c, values = EXTRA[name]
    columns = (*COLUMNS, column(c.dtype, c.shape, name))
    some = rows()
    some = dataclasses.replace(some, columns={**some.columns, name: values})
    entry, data = part(some=some, columns=columns)
    d = decode_directory(
        data[: entry.head.n_bytes], entry, layout="record", n_groups=2, columns=columns
    )
    assert len(d.columns[name].pages) == -(-5 // step)
    assert d.columns[name].nulls == (name != "none-is-null")
    again = decode_part(data, d, columns)
    assert same(again.columns[name], values)
    halves = [again.slice(0, 1), again.slice(1, 2)]
    assert same(concat(halves).columns[name], values)
    assert same(concat(halves[::-1]).columns[name][3:], values[:2])


def test_a_column_that_a_part_lacks_is_null():
    entry, data = part()
    columns = (*COLUMNS, *(column(c.dtype, c.shape, name) for name, (c, _) in EXTRA.items()))
    d = decode_directory(
        data[: entry.head.n_bytes], entry, layout="record", n_groups=2, columns=columns
    )
    for name in EXTRA:
        values = decode_part(data, d, columns).columns[name]
        assert len(values) == 5
        if isinstance(values, list):
            assert values == [None] * 5
        else:
            assert values.mask.all()
            assert values.shape == (5, *EXTRA[name][0].shape)


@pytest.mark.parametrize(("dtype", "shape"), [("<f16", ()), ("later", ()), ("|O", (None,))])
def test_a_type_of_a_later_version_has_no_values(dtype, shape):
    with pytest.raises(
        UnsupportedFormatError, match=r"^here: column x has the type.*upgrade pcrstore"
    ):
        null_values(column(dtype, shape), 3, where="here")


def u4(*numbers):
    return np.array(numbers, "<u4").tobytes()


LAID_OUT = {  # column, values, nulls, bytes
    "numbers": (column("<u2"), np.array([1, 2], "<u2"), False, b"\x01\0\x02\0"),
    "bools": (column("|b1"), np.array([True, False]), False, b"\x01\0"),
    "null-is-zero": (
        column("<u2"), np.ma.MaskedArray(np.array([1, 7, 3], "<u2"), [0, 1, 0]), True,
        b"\x05\x01\0\0\0\x03\0",
    ),
    "nine-values": (column("|u1"), np.arange(9, dtype="|u1"), True, b"\xff\x01" + bytes(range(9))),
    "boxes": (
        column("|u1", (None, 2)), [[[1, 2], [3, 4]], None, []], True,
        b"\x05" + u4(2, 0, 0) + b"\1\2\3\4",
    ),
    "text": (column("utf8"), ["\u00e9", None], True, b"\x01" + u4(2, 0) + b"\xc3\xa9"),
    "tags": (
        column("utf8", (None,)), [["cat", "grey"], None, ["dog"]], True,
        b"\x05" + u4(2, 0, 1) + u4(3, 4, 3) + b"catgreydog",
    ),
    "null-pair": (column("bytes", (2,)), [None, [b"a", b""]], True, b"\2" + u4(0, 0, 1, 0) + b"a"),
}  # fmt: skip


@pytest.mark.parametrize(("c", "values", "nulls", "raw"), LAID_OUT.values(), ids=LAID_OUT)
def test_bytes_are_those_of_the_format(c, values, nulls, raw):
    assert pack_values(c, values, nulls=nulls) == raw


GIVEN = {  # column, values, and what they come back as; None where they are refused
    "wider": (column("|u1"), np.array([255], np.int64), [255]),
    "wider-over": (column("|u1"), np.array([256], np.int64), None),
    "minus": (column("<u4"), np.array([-1]), None),
    "minus-wraps": (column("<u8"), np.array([-1]), None),
    "large-wraps": (column("<i8"), np.array([2**63], np.uint64), None),
    "list": (column("<i4"), [1, 2], [1, 2]),
    "whole-float": (column("<i4"), np.array([1.0]), [1]),
    "fraction": (column("<i4"), np.array([1.5]), None),
    "nan-in-integers": (column("<i4"), np.array([np.nan]), None),
    "rounded": (column("<f4"), np.array([1 + 2**-40]), [1.0]),
    "nan": (column("<f4"), np.array([-np.inf]), [-np.inf]),
    "overflow": (column("<f4"), np.array([1e300]), None),
    "text-in-numbers": (column("<i4"), ["a"], None),
    "two-in-bools": (column("|b1"), np.array([2]), None),
    "huge": (column("<i8"), [2**70], None),
    "shape": (column("<i4", (3,)), np.zeros((2, 4), "<i4"), None),
    "no-shape": (column("<i4", (3,)), np.zeros(6, "<i4"), None),
    "half-masked": (column("<i4", (2,)), np.ma.MaskedArray([[1, 2]], [[0, 1]]), None),
    "rows-of-lists": (column("<i4", (None, 2)), [[[1, 2]], []], [[[1, 2]], []]),
    "rows-of-five": (column("<i4", (None, 4)), [np.zeros((1, 5), "<i4")], None),
    "rows-without-rows": (column("<i4", (None, 4)), [np.zeros(4, "<i4")], None),
    "rows-uneven": (column("<i4", (None, 2)), [[[1, 2], [3]]], None),
    "tuples": (column("utf8", (2,)), [("a", "b")], [["a", "b"]]),
    "uneven-pairs": (column("utf8", (2,)), [["a"], ["b", "c", "d"]], None),
    "uneven-rows": (column("utf8", (None, 2)), [[["a"], ["b", "c", "d"]]], None),
    "text-for-a-list": (column("utf8", (2,)), ["ab"], None),
    "text-for-rows": (column("utf8", (None,)), ["ab"], None),
    "none-in-a-list": (column("utf8", (2,)), [["a", None]], None),
    "list-for-text": (column("utf8"), [["a"]], None),
    "bytes-in-text": (column("utf8"), [b"a"], None),
    "bytes-in-json": (column("json"), [b"1"], None),
    "text-in-bytes": (column("bytes"), ["a"], None),
    "surrogates": (column("utf8"), ["\udcff"], None),
}


@pytest.mark.parametrize(("c", "values", "back"), GIVEN.values(), ids=GIVEN)
def test_only_values_that_come_back_are_packed(c, values, back):
    nulls = has_nulls(values)
    if back is None:
        with pytest.raises(FormatError, match="column x must h"):
            pack_values(c, values, nulls=nulls)
        return
    raw = pack_values(c, values, nulls=nulls)
    got = unpack_values(c, raw, len(values), nulls=nulls, where="here")
    assert [v.tolist() if isinstance(v, np.ndarray) else v for v in got] == back


MANY = np.full(65_536, 2**32 - 1, "<u4").tobytes()
MALFORMED = {  # column, bytes, number of values, nulls
    "short": (column("<i4"), bytes(7), 2, False),
    "long": (column("<i4"), bytes(9), 2, False),
    "shape-short": (column("<i4", (65_536,)), bytes(99), 4096, False),
    "no-validity": (column("<i4"), b"", 1, True),
    "validity-alone": (column("<i4"), b"\xff", 1, True),
    "validity-of-eight-for-nine": (column("|u1"), bytes(10), 9, True),
    "validity-behind-the-last": (column("|u1"), b"\x07\x01\x02", 2, True),
    "bool-2": (column("|b1"), b"\x01\x02", 2, False),
    "bool-255-in-a-row": (column("|b1", (None,)), u4(1) + b"\xff", 1, False),
    "no-counts": (column("<i4", (None,)), bytes(7), 2, False),
    "rows-short": (column("<i4", (None,)), u4(1, 2) + bytes(11), 2, False),
    "rows-long": (column("<i4", (None,)), u4(1, 2) + bytes(13), 2, False),
    "rows-of-4-gib": (column("|u1", (None,)), b"\xff" * 16, 4, False),
    "rows-that-wrap": (column("|u1", (None, 65_536)), MANY, 65_536, False),
    "rows-that-wrap-to-0": (column("|u1", (None, 65_536)), u4(2**31) * 8, 8, False),
    "texts-without-lengths": (column("utf8"), bytes(15), 4, False),
    "texts-short": (column("utf8"), u4(1, 2, 0, 3) + b"abcde", 4, False),
    "texts-long": (column("utf8"), u4(1, 2, 0, 3) + b"abcdefg", 4, False),
    "text-of-4-gib": (column("utf8"), b"\xff" * 16, 4, False),
    "texts-that-wrap": (column("bytes"), u4(2**30) * 4, 4, False),
    "texts-of-a-shape": (column("utf8", (65_536,) * 1), bytes(400), 100, False),
    "tags-that-wrap": (column("utf8", (None, 65_536)), MANY, 65_536, False),
    "tags-without-lengths": (column("utf8", (None,)), u4(2**20), 1, False),
    "latin-1": (column("utf8"), u4(1) + b"\xe9", 1, False),
    "half-a-character": (column("utf8"), u4(1, 1) + b"\xc3\xa9", 2, False),
    "surrogate": (column("json"), u4(3) + b"\xed\xa0\x80", 1, False),
}


@pytest.mark.parametrize(("c", "raw", "n", "nulls"), MALFORMED.values(), ids=MALFORMED)
def test_bytes_that_do_not_add_up_are_refused(c, raw, n, nulls):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="here"):
            unpack_values(c, raw, n, nulls=nulls, where="here")
        assert tracemalloc.get_traced_memory()[1] < 2**16 + 8 * len(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", column_values(1))
def test_every_cut_is_detected(name):
    values = column_values(3)[name]
    c = next(c for c in COLUMNS if c.name == name)
    raw = pack_values(c, values, nulls=False)
    for n in range(len(raw)):
        with pytest.raises(FormatError):
            unpack_values(c, raw[:n], 3, nulls=False, where="here")


@settings(max_examples=200)
@given(
    dtype=st.sampled_from([*NUMBERS, *TEXTS]),
    shape=st.sampled_from(SHAPES),
    raw=st.binary(max_size=64),
    n=st.integers(0, 5),
    nulls=st.booleans(),
)
def test_any_bytes_are_values_or_refused(dtype, shape, raw, n, nulls):
    try:
        values = unpack_values(column(dtype, shape), raw, n, nulls=nulls, where="here")
    except FormatError:
        return
    assert len(values) == n


HOSTILE = {
    "empty-texts": (column("utf8", (None,)), u4(2**20) + bytes(2**22), 1, 6),
    "short-texts": (column("utf8", (None,)), u4(2**18) + u4(*[2] * 2**18) + b"ab" * 2**18, 1, 14),
    "no-rows": (column("|u1", (None,)), bytes(4 * 65_536), 65_536, 48),
}


@pytest.mark.parametrize(("c", "raw", "n", "times"), HOSTILE.values(), ids=HOSTILE)
def test_values_take_memory_in_proportion_to_their_bytes(c, raw, n, times):
    tracemalloc.start()
    try:
        assert len(unpack_values(c, raw, n, nulls=False, where="here")) == n
        assert tracemalloc.get_traced_memory()[1] < times * len(raw)
    finally:
        tracemalloc.stop()
