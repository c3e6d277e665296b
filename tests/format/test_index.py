"""An index part round trips, and one that was damaged or forged is refused."""

import dataclasses
import time
import tracemalloc
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_parts import G, objects, part, rows, with_directory

from pcrstore.core.checksum import crc32c
from pcrstore.core.json_codec import from_json, to_json
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.format.index import (
    COLUMNS,
    HEADERS,
    RECORDS,
    Block,
    Column,
    Page,
    PartEntry,
    check_records,
    record_dtype,
)
from pcrstore.format.index_pages import decode_directory, decode_page
from pcrstore.format.index_rows import decode_part, header_edges

LAYOUTS = ["record", "zarr"]


def directory(data, entry, layout="record", n_groups=G, columns=COLUMNS):
    return decode_directory(
        data[: entry.head.n_bytes], entry, layout=layout, n_groups=n_groups, columns=columns
    )


def decode(data, entry, layout="record"):
    return decode_part(data, directory(data, entry, layout), COLUMNS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_round_trips(layout):
    some = rows(layout)
    entry, data = part(layout)
    assert (entry.n_images, entry.n_records, entry.n_bytes) == (5, 2, len(data))
    d = directory(data, entry, layout)
    assert d.objects == tuple(objects(layout))
    again = decode_part(data, d, COLUMNS)
    assert np.array_equal(again.records, some.records)
    assert np.array_equal(again.restore, some.restore)
    assert again.headers == some.headers
    for name, values in some.columns.items():
        assert np.array_equal(np.asarray(again.columns[name]), np.asarray(values)), name


def test_an_entry_round_trips():
    entry, _ = part()
    assert from_json(PartEntry, to_json(entry), where="here") == entry


def test_pages_are_cut_at_4096_rows():
    some = rows(sizes=(4095, 2))
    entry, data = part(some=some)
    d = directory(data, entry)
    pages = d.blocks["label"].pages
    assert [(p.first_row, p.n_rows) for p in pages] == [(0, 4096), (4096, 1)]
    assert len(d.blocks[HEADERS].pages) == 1
    again = decode_part(data, d, COLUMNS)
    assert again.columns["key"] == some.columns["key"]
    assert again.headers == some.headers


@settings(max_examples=30)
@given(
    keys=st.lists(st.text(max_size=8) | st.just("\udcff\udc80"), min_size=1, max_size=9),
)
def test_any_keys_round_trip(keys):
    plain = rows(sizes=(len(keys),))
    some = dataclasses.replace(plain, columns={**plain.columns, "key": keys})
    try:
        [k.encode("utf-8", "surrogateescape") for k in keys]
    except UnicodeEncodeError:
        return  # no file system gives these
    entry, data = part(some=some)
    assert decode(data, entry).columns["key"] == keys


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_flipped_byte_is_detected(layout):
    entry, data = part(layout)
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 << at % 8
        with pytest.raises(FormatError):
            decode(bytes(bad), entry, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_truncation_is_detected(layout):
    entry, data = part(layout)
    for n in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:n], entry, layout)


def with_head(entry, **changes):
    return dataclasses.replace(entry, head=entry.head._replace(**changes))


def test_the_head_of_another_part_is_refused():
    entry, _ = part()
    other, data = part(some=rows(sizes=(1, 4)))
    with pytest.raises(ChecksumError, match="index directory fails its checksum"):
        directory(
            data,
            dataclasses.replace(entry, head=entry.head._replace(n_bytes=other.head.n_bytes)),
        )


@pytest.mark.parametrize("head", [b"PCR1", b"pcri", bytes(4)])
def test_other_magic_is_refused(head):
    entry, data = part()
    forged = head + data[4 : entry.head.n_bytes]
    changed = dataclasses.replace(entry, head=entry.head._replace(checksum=crc32c(forged)))
    with pytest.raises(FormatError, match="index part must start with"):
        directory(forged, changed)


def test_pages_that_swap_places_are_detected():
    entry, data = part()
    d = directory(data, entry)
    a, b = d.blocks["width"].pages[0], d.blocks["height"].pages[0]
    block = d.blocks["width"]
    other = rows()
    other.columns["width"] += 1
    _, changed = part(some=other)
    d2 = directory(changed, part(some=other)[0])
    foreign = d2.blocks["width"].pages[0]
    with pytest.raises(ChecksumError, match=r"width rows 0\.\.5 fail their checksum"):
        decode_page(block, a, changed[foreign.start : foreign.stop], where="here")
    assert a.start != b.start


def change(**values):
    return lambda d: d.update(values)


def in_block(which, **values):
    def edit(d):
        next(b for b in d["blocks"] if b["name"] == which).update(values)

    return edit


def page_of(name, position, value):
    def edit(d):
        next(b for b in d["blocks"] if b["name"] == name)["pages"][0][position] = value

    return edit


FORGED = {
    "uid": change(uid="ff" * 16),
    "layout": change(layout="zarr"),
    "groups": change(n_groups=3),
    "images": change(n_images=6),
    "images-huge": change(n_images=2**53),
    "records": change(n_records=3),
    "objects-many": lambda d: d.update(objects=d["objects"] * 3),
    "object-name": lambda d: d["objects"][0].update(name="../x"),
    "object-url": lambda d: d["objects"][0].update(name="s3://other/x"),
    "object-uid": lambda d: d["objects"][0].update(uid="ff"),
    "object-minus": lambda d: d["objects"][0].update(bytes=-1),
    "no-blocks": change(blocks=[]),
    "no-objects-field": lambda d: d.pop("objects") and None,
    "block-missing": lambda d: d["blocks"].pop() and None,
    "block-renamed": in_block("key", name="other"),
    "block-twice": lambda d: d["blocks"].append({**d["blocks"][0], "pages": [[0, 0, 0]]}),
    "kind": in_block("key", kind="rows"),
    "kind-of-records": in_block(RECORDS, kind="utf8"),
    "headers-packed": in_block(HEADERS, packed=True),
    "rows": in_block("key", rows=4),
    "rows-huge": in_block("key", rows=2**53),
    "rows-minus": in_block("key", rows=-1),
    "no-rows-per-page": in_block("key", rows_per_page=0),
    "more-pages-than-rows": in_block("key", pages=[[0, 0, 0]] * 9),
    "no-pages": in_block("key", pages=[]),
    "page-of-two": in_block("key", pages=[[0, 0]]),
    "page-of-text": in_block("key", pages=["abc"]),
    "page-longer-than-part": page_of("key", 0, 10**9),
    "page-shorter": page_of("key", 0, 1),
    "page-minus": page_of("key", 0, -1),
    "page-bomb": page_of("key", 1, 2**26 + 1),
    "packed-not-bool": in_block("key", packed=1),
}


@pytest.mark.parametrize("edit", FORGED.values(), ids=FORGED)
def test_forged_directories_are_refused(edit):
    entry, data = with_directory(*part(), edit)
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(FormatError, match=r"index/p\.pcri"):
            directory(data, entry)
        assert time.monotonic() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_directory_that_was_not_edited_is_accepted():
    """So that the forgeries above are refused for what was forged."""
    entry, data = with_directory(*part(), lambda d: d.update(later=1))
    assert len(decode(data, entry).headers) == 2


def page(stored, raw_bytes, n_rows=4):
    return Page(
        start=0,
        stop=len(stored),
        raw_bytes=raw_bytes,
        checksum=crc32c(stored),
        first_row=0,
        n_rows=n_rows,
    )


def block(kind="rows", dtype="<i4", *, packed=True):
    row = None if kind != "rows" else np.dtype(dtype)
    return Block(name="x", kind=kind, dtype=row, packed=packed, pages=())


BOMB = zlib.compress(bytes(2**26), 9)
LENGTHS = np.array([1, 2, 0, 3], "<u4").tobytes()
BAD_PAGES = {
    "bomb-of-rows": (block(), BOMB, 2**26),
    "bomb-that-says-little": (block(), BOMB, 16),
    "unpacks-to-less": (block(), zlib.compress(bytes(15)), 16),
    "unpacks-to-more": (block(), zlib.compress(bytes(17)), 16),
    "cut-stream": (block(), zlib.compress(bytes(16))[:-1], 16),
    "bytes-behind-stream": (block(), zlib.compress(bytes(16)) + b"x", 16),
    "no-stream": (block(), b"not zlib at all", 16),
    "rows-short": (block(packed=False), bytes(12), 12),
    "rows-long": (block(packed=False), bytes(20), 20),
    "raw-is-not-stored": (block(packed=False), bytes(16), 15),
    "unknown-dtype": (Block(name="x", kind="rows", dtype=None, packed=False, pages=()), b"", 0),
    "strings-without-lengths": (block("utf8", packed=False), bytes(15), 15),
    "strings-short": (block("utf8", packed=False), LENGTHS + b"abcde", 21),
    "strings-long": (block("utf8", packed=False), LENGTHS + b"abcdefg", 23),
    "string-of-4-gib": (block("utf8", packed=False), b"\xff" * 16, 16),
    "strings-that-overflow": (block("utf8", packed=False), b"\x00\x00\x00\x40" * 4, 16),
}


@pytest.mark.parametrize(("of", "stored", "raw"), BAD_PAGES.values(), ids=BAD_PAGES)
def test_pages_that_do_not_hold_their_rows_are_refused(of, stored, raw):
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(FormatError, match="here: x rows"):
            decode_page(of, page(stored, raw), stored, where="here")
        assert time.monotonic() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_good_pages_are_read():
    assert (
        decode_page(
            block(), page(zlib.compress(bytes(16)), 16), zlib.compress(bytes(16)), where="here"
        ).tolist()
        == [0] * 4
    )
    stored = LENGTHS + b"abbccc"
    assert decode_page(
        block("utf8", packed=False), page(stored, len(stored)), stored, where="here"
    ) == ["a", "bb", "", "ccc"]


def table(layout="record", **values):
    out = np.zeros(1, record_dtype(layout, G))
    out["n_images"], out["length"] = 2, [10, 20, 5]
    for name, value in values.items():
        out[name] = value
    return out


SIZES = {  # of an object of 100 bytes; the header has 40
    "fits": ({}, True),
    "ends-at-the-end": ({"start": 25}, True),
    "one-over": ({"start": 26}, False),
    "far-start": ({"start": 2**64 - 1}, False),
    "wraps-around": ({"start": 2**64 - 75}, False),
    "long": ({"length": [2**32 - 1] * 3}, False),
    "no-images": ({"n_images": 0}, False),
    "65535-images": ({"n_images": 65_535}, True),
    "65536-images": ({"n_images": 65_536}, False),
    "object-1": ({"object": 1}, False),
    "object-huge": ({"object": 2**32 - 1}, False),
}


@pytest.mark.parametrize(("values", "fine"), SIZES.values(), ids=SIZES)
def test_records_lie_inside_their_objects(values, fine):
    entry, data = with_directory(*part(), lambda d: d["objects"][0].update(bytes=100))
    d = directory(data, entry)
    run = partial(
        check_records,
        table(**values),
        d,
        header_sizes=np.array([40]),
        totals=(),
        chunk_bytes=(),
    )
    if fine:
        run()
    else:
        with pytest.raises(FormatError, match="record 0 must lie inside"):
            run()


ARRAY_SIZES = {  # arrays of 100, 100 and 100,000 bytes in chunks of 8
    "fits": ({"start": [90, 80, 99_995]}, True),
    "one-over-in-the-first": ({"start": [91, 80, 0]}, False),
    "one-over-in-the-last": ({"start": [0, 0, 99_996]}, False),
    "far": ({"start": [0, 2**64 - 1, 0]}, False),
    "chunks-at-limit": ({"length": [1, 1, 4096 * 8 + 7]}, True),
    "chunks-over-limit": ({"length": [1, 1, 4097 * 8]}, False),
}


@pytest.mark.parametrize(("values", "fine"), ARRAY_SIZES.values(), ids=ARRAY_SIZES)
def test_stretches_of_arrays_lie_inside_them(values, fine):
    entry, data = part("zarr")
    d = directory(data, entry, "zarr")
    run = partial(
        check_records,
        table("zarr", **values),
        d,
        header_sizes=np.array([40]),
        totals=(100, 100, 100_000),
        chunk_bytes=(8, 8, 8),
    )
    if fine:
        run()
    else:
        with pytest.raises(FormatError, match="record 0 must lie inside"):
            run()


def test_header_edges_are_those_of_the_headers():
    some = rows(sizes=(1, 7, 8, 9))
    edges = header_edges(some.records, G).tolist()
    assert np.diff(edges).tolist() == list(map(len, some.headers))


def test_columns_describe_their_rows():
    assert Column(name="x", dtype="<u2", width=1).row_dtype == np.dtype("<u2")
    assert Column(name="x", dtype="|u1", width=32).row_dtype.itemsize == 32
    assert Column(name="x", dtype="utf8", width=1).row_dtype is None
