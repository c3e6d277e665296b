"""What a writer makes of its rows is what a reader takes; otherwise nothing is written."""

import dataclasses
import zlib

import numpy as np
import pytest
from index_parts import G, part, rows, runs
from msgspec.structs import replace

from pcrstore.errors import FormatError
from pcrstore.format.columns import COLUMNS, Column
from pcrstore.format.index import MAX_DIRECTORY
from pcrstore.format.index_pages import decode_directory, encode_part
from pcrstore.format.index_rows import decode_part

PAGE = 2**24


def with_column(name, dtype, values, shape=()):
    """Rows with one more column, and the columns."""
    some = rows(sizes=(len(values),))
    some = dataclasses.replace(some, columns={**some.columns, name: values})
    return some, (*COLUMNS, Column(name=name, dtype=dtype, shape=shape))


def written(name, dtype, values, shape=()):
    """The block of a column as a part has it, and the values that come back."""
    some, columns = with_column(name, dtype, values, shape)
    entry, data = part(some=some, columns=columns)
    d = decode_directory(
        data[: entry.head.n_bytes], entry, layout="record", n_groups=G, columns=columns
    )
    return d.columns[name], decode_part(data, d, columns).columns[name]


BIG = {  # bytes of each value, rows to a page of at most 2^24 bytes
    "two-to-a-page": ([PAGE // 2 - 4] * 4, 2),
    "one-byte-more": ([PAGE // 2 - 4] * 3 + [PAGE // 2 - 3], 1),
    "a-page-each": ([PAGE - 4, 0, 0], 1),
    "small": ([9] * 5, 4096),
    "many": ([5000] * 4097, 2048),
}


@pytest.mark.parametrize(("sizes", "rows_per_page"), BIG.values(), ids=BIG)
def test_big_values_make_pages_of_fewer_rows(sizes, rows_per_page):
    values = [bytes([i % 251]) * n for i, n in enumerate(sizes)]
    block, again = written("blob", "bytes", values)
    assert block.rows_per_page == rows_per_page
    assert max(p.raw_bytes for p in block.pages) <= PAGE
    assert again == values


def test_a_value_has_at_most_2_24_bytes():
    some, columns = with_column("blob", "bytes", [bytes(PAGE - 3), b""])
    with pytest.raises(FormatError, match=r"index/p\.pcri: blob: a value has at most 16777216"):
        part(some=some, columns=columns)


def test_a_column_whose_name_ends_like_headers_is_cut_as_well():
    block, _ = written("my-headers", "bytes", [bytes(PAGE - 4), b"x"])
    assert [p.raw_bytes for p in block.pages] == [PAGE, 5]


NOISE = np.random.default_rng(0).bytes(60_000)
CODECS = {
    "noise": ([NOISE], "none"),
    "words": ([b"cat dog " * 9] * 99, "zlib"),
    "short": ([b"a"], "none"),
    "a-mebibyte-of-zeros": ([bytes(2**20 - 4)], "zlib"),
    "two-mebibytes-of-zeros": ([bytes(2**21)], "none"),
    "zeros-behind-noise": ([NOISE, bytes(2**21)], "zlib"),
}


@pytest.mark.parametrize(("values", "codec"), CODECS.values(), ids=CODECS)
def test_blocks_are_packed_where_it_helps_and_a_reader_would_unpack_them(values, codec):
    """What a block takes once unpacked is backed by what is stored."""
    block, again = written("blob", "bytes", values)
    assert block.codec == codec
    raw, stored = (sum(getattr(p, f) for p in block.pages) for f in ("raw_bytes", "n_bytes"))
    assert raw <= 2**20 + 64 * stored
    assert (raw == stored) == (codec == "none")
    assert again == values


def test_a_block_at_the_largest_ratio_is_packed_and_one_beyond_it_is_not():
    """The bound is found by bisection, since a byte of zeros more may not change what is stored."""

    def is_packed(n):
        return written("blob", "bytes", [bytes(n)])[0].codec == "zlib"

    low, high = 2**20, 2**21
    assert is_packed(low)
    assert not is_packed(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_packed(middle) else (low, middle)
    for n, fits in ((low, True), (high, False)):
        raw = (n).to_bytes(4, "little") + bytes(n)
        assert (len(raw) <= 2**20 + 64 * len(zlib.compress(raw, 6))) == fits


def keys(n, n_bytes):
    some = rows(sizes=(n // 2, n - n // 2))
    texts = [f"{i:0{n_bytes}}" for i in range(n)]
    return dataclasses.replace(some, columns={**some.columns, "key": texts})


def test_keys_take_at_most_2_24_bytes_in_a_part():
    """With 4 bytes for the length of each."""
    assert part(some=keys(2**14, 1020))[0].n_images == 2**14
    with pytest.raises(FormatError, match=r"index/p\.pcri: block key: pages must be"):
        part(some=keys(2**14, 1021))


def test_a_part_has_at_most_65536_pages(monkeypatch):
    monkeypatch.setattr("pcrstore.format.index_pages._ROWS_PER_PAGE", 1)
    n = (2**16 - 1) // (len(COLUMNS) + 2)  # the table of records and headers have a page each
    n_pages = n * (len(COLUMNS) + 1) + 2
    assert n_pages <= 2**16
    assert part(some=rows(sizes=(n,)))[0].n_images == n
    with pytest.raises(FormatError, match=r"index/p\.pcri: blocks must be at most 65536 pages"):
        part(some=rows(sizes=(n + n // 9,)))


def encoded(some, its_runs):
    return encode_part(
        name="index/p.pcri",
        uid="0" * 32,
        n_groups=G,
        runs=its_runs,
        records=some.records,
        headers=some.headers,
        restore=some.restore,
        columns=[(c, some.columns[c.name]) for c in COLUMNS],
    )


def test_a_directory_has_at_most_8_mib():
    some = rows(sizes=(1,) * 9000)
    [run] = runs(some=some)
    named = [replace(run, name=f"objects/{i:0850}") for i in range(9000)]
    entry, _ = encoded(some, named)
    assert entry.head.n_bytes <= MAX_DIRECTORY
    longer = [replace(run, name=f"objects/{i:0950}") for i in range(9000)]
    with pytest.raises(FormatError, match=r"index/p\.pcri: directory must be at most 8388608 byte"):
        encoded(some, longer)


UNREADABLE = {
    "no-runs": lambda _: [],
    "more-runs-than-records": lambda run: [run] * 3,
    "name": lambda run: [replace(run, name="../x")],
    "chunk": lambda run: [replace(run, chunk=8)],
    "minus": lambda run: [replace(run, n_bytes=-1)],
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_what_no_reader_would_take_is_never_written(change):
    some = rows()
    with pytest.raises(FormatError, match=r"index/p\.pcri"):
        encoded(some, change(*runs(some=some)))


def test_a_system_column_without_a_value_is_never_written():
    some = rows()
    keys = [None, *some.columns["key"][1:]]
    some = dataclasses.replace(some, columns={**some.columns, "key": keys})
    with pytest.raises(
        FormatError, match=r"index/p\.pcri: block key must be a column without null"
    ):
        part(some=some)
