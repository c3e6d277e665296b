"""An index part round trips, and one that was damaged or forged is refused."""

import dataclasses
import json
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_parts import G, part, rows, runs, with_directory, with_text
from msgspec.structs import replace

from pcrstore.core.checksum import crc32c
from pcrstore.core.typed_json import MAX_INT, decode_json, encode_json
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.format.columns import COLUMNS, Column
from pcrstore.format.index import (
    HEADERS,
    MAX_DIRECTORY,
    RECORDS,
    RESTORE,
    Block,
    Directory,
    Page,
    PartEntry,
    Run,
    check_records,
    n_pieces,
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
    assert d.runs == tuple(runs(layout))
    again = decode_part(data, d, COLUMNS)
    assert np.array_equal(again.records, some.records)
    assert np.array_equal(again.restore, some.restore)
    assert again.headers == some.headers
    for name, values in some.columns.items():
        assert np.array_equal(np.asarray(again.columns[name]), np.asarray(values)), name
    assert part(layout) == (entry, data)


def test_an_entry_round_trips():
    entry, _ = part()
    assert decode_json(encode_json(entry), PartEntry, where="here") == entry


def test_a_run_says_no_more_than_it_must():
    assert b"chunk" not in encode_json(runs("record")[0])
    assert b"unused" not in encode_json(runs("zarr")[0])
    some = Run(name="a", uid="0" * 32, n_bytes=9, chunk=4, unused=2)
    assert decode_json(encode_json(some), Run, where="here") == some


def test_pages_are_cut_at_4096_rows():
    some = rows(sizes=(4095, 2))
    entry, data = part(some=some)
    d = directory(data, entry)
    block = d.columns["label"]
    pages = [block.page(i) for i in range(len(block.pages))]
    assert [(p.first_row, p.n_rows) for p in pages] == [(0, 4096), (4096, 1)]
    assert pages[0].stop == pages[1].start
    assert len(d.tables[HEADERS].pages) == 1
    again = decode_part(data, d, COLUMNS)
    assert again.columns["key"] == some.columns["key"]
    assert again.headers == some.headers


@settings(max_examples=30)
@given(
    keys=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=9
    )
)
def test_any_keys_round_trip(keys):
    plain = rows(sizes=(len(keys),))
    some = dataclasses.replace(plain, columns={**plain.columns, "key": keys})
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
    return replace(entry, head=replace(entry.head, **changes))


def test_the_head_of_another_part_is_refused():
    entry, _ = part()
    other, data = part(some=rows(sizes=(1, 4)))
    with pytest.raises(ChecksumError, match="index directory fails its checksum"):
        directory(data, with_head(entry, n_bytes=other.head.n_bytes))


@pytest.mark.parametrize("head", [b"PCR1", b"pcri", bytes(4)])
def test_other_magic_is_refused(head):
    entry, data = part()
    forged = head + data[4 : entry.head.n_bytes]
    with pytest.raises(FormatError, match="index part must start with"):
        directory(forged, with_head(entry, checksum=crc32c(forged)))


def test_pages_that_swap_places_are_detected():
    entry, data = part()
    d = directory(data, entry)
    a, b = d.columns["width"].page(0), d.columns["height"].page(0)
    other = rows()
    other.columns["width"] += 1
    changed_entry, changed = part(some=other)
    foreign = directory(changed, changed_entry).columns["width"].page(0)
    with pytest.raises(ChecksumError, match=r"width rows 0\.\.5 fail their checksum"):
        decode_page(d.columns["width"], a, changed[foreign.start : foreign.stop], where="here")
    assert a.start != b.start


def change(**values):
    return lambda d: d.update(values)


def in_run(**values):
    return lambda d: d["objects"][0].update(values)


def in_block(which, **values):
    def edit(d):
        next(b for b in d["blocks"] if b["name"] == which).update(values)

    return edit


def page_of(name, position, value):
    def edit(d):
        next(b for b in d["blocks"] if b["name"] == name)["pages"][0][position] = value

    return edit


def field_of(name, number, position, value):
    def edit(d):
        next(b for b in d["blocks"] if b["name"] == name)["fields"][number][position] = value

    return edit


def without(*names):
    return lambda d: d.update(blocks=[b for b in d["blocks"] if b["name"] not in names])


def edits(*some):
    def edit(d):
        for one in some:
            one(d)

    return edit


def repeated(name, **values):
    """One more block of a name, without bytes."""

    def edit(d):
        block = next(b for b in d["blocks"] if b["name"] == name)
        d["blocks"].append({**block, **values})

    return edit


FORGED = {
    "uid": change(uid="ff" * 16),
    "groups": change(n_groups=3),
    "images": change(n_images=6),
    "images-huge": change(n_images=2**53),
    "records": change(n_records=3),
    "run-name": in_run(name="../x"),
    "run-url": in_run(name="s3://other/x"),
    "run-uid": in_run(uid="ff"),
    "run-minus": in_run(bytes=-1),
    "run-unused-minus": in_run(unused=-1),
    "run-chunk": in_run(chunk=8),
    "no-runs": change(objects=[]),
    "no-list-of-runs": change(objects=None),
    "no-blocks": change(blocks=[]),
    **{f"without-{name}": without(name) for name in (RECORDS, HEADERS, RESTORE)},
    **{f"without-{c.name}": without(c.name) for c in COLUMNS},
    "block-renamed": in_block("key", name="other"),
    "column-twice": repeated("label", rows=5, pages=[[0, 0, 0]]),
    "table-twice": repeated(RECORDS, pages=[[0, 0, 0]]),
    "kind-of-a-column": in_block("key", kind="table"),
    "kind-of-records": in_block(RECORDS, kind="column"),
    "kind-of-headers": in_block(HEADERS, kind="table"),
    "headers-packed": in_block(HEADERS, codec="zlib"),
    "headers-in-two-pages": in_block(HEADERS, rows_per_page=1, pages=[[0, 0, 0]] * 2),
    "rows": in_block("key", rows=4),
    "rows-of-restore": in_block(RESTORE, rows=2),
    "rows-huge": in_block("key", rows=2**53),
    "rows-minus": in_block("key", rows=-1),
    "no-rows-per-page": in_block("key", rows_per_page=0),
    "rows-per-page-huge": in_block("key", rows_per_page=2**53),
    "rows-per-page-2-64": in_block("label", rows_per_page=2**64),
    "more-pages-than-rows": in_block("key", pages=[[0, 0, 0]] * 9),
    "no-pages": in_block("key", pages=[]),
    "page-of-two": in_block("key", pages=[[0, 0]]),
    "page-of-text": in_block("key", pages=["abc"]),
    "page-longer-than-part": page_of("key", 0, 10**9),
    "page-of-4-gib": page_of("key", 0, 2**32),
    "page-shorter": page_of("key", 0, 1),
    "page-minus": page_of("key", 0, -1),
    "raw-is-not-stored": page_of("label", 1, 19),
    "dtype": in_block("label", dtype="<u4"),
    "shape": in_block("label", shape=[1]),
    "no-shape": in_block("label", shape=None),
    "no-nulls": in_block("label", nulls=None),
    "nulls-of-a-key": in_block("key", nulls=True),
    "nulls-not-bool": in_block("label", nulls=0),
    "no-fields": in_block(RECORDS, fields=None),
    "field-renamed": field_of(RECORDS, 1, 0, "number"),
    "field-twice": field_of(RECORDS, 1, 0, "n_images"),
    "field-without-name": field_of(RECORDS, 1, 0, ""),
    "field-of-two": field_of(RECORDS, 1, 2, 2),
    "field-of-none": field_of(RECORDS, 1, 2, 0),
    "field-of-many": field_of(RECORDS, 1, 2, 65_537),
    "field-of-restore": field_of(RESTORE, 0, 2, 2),
    "object-of-each-region": field_of(RECORDS, 0, 2, G + 1),
}  # fmt: skip


def refused(entry, data, layout="record", columns=COLUMNS, match=""):
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(FormatError, match=rf"index/p\.pcri.*{match}"):
            directory(data, entry, layout, columns=columns)
        assert time.monotonic() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("edit", FORGED.values(), ids=FORGED)
def test_forged_directories_are_refused(edit):
    refused(*with_directory(*part(), edit))


def test_a_directory_that_was_not_edited_is_accepted():
    """So that the forgeries above are refused for what was forged."""
    entry, data = with_directory(*part(), lambda _: None)
    assert len(decode(data, entry).headers) == 2


@pytest.mark.parametrize("name", [RECORDS, RESTORE, HEADERS])
def test_a_column_may_be_named_like_a_table_and_is_none(name):
    columns = (*COLUMNS, Column(name=name, dtype="|u1", shape=()))
    some = rows()
    values = np.arange(5, dtype="|u1")
    some = dataclasses.replace(some, columns={**some.columns, name: values})
    entry, data = part(some=some, columns=columns)
    again = decode_part(data, directory(data, entry, columns=columns), columns)
    assert again.columns[name].tolist() == values.tolist()
    assert np.array_equal(again.records, some.records)

    def without_table(d):
        d["blocks"] = [b for b in d["blocks"] if (b["name"], b["kind"] == "column") != (name, 0)]

    forged = with_directory(entry, data, without_table, fit=True)
    refused(*forged, columns=columns, match=f"no {name}")


def later(n_pages, n=1, **values):
    """Blocks of a kind that a later version may add."""
    plain = {"kind": "later", "codec": "none", "rows": 9, "rows_per_page": 1}
    blocks = [
        {**plain, "name": f"later-{i}", "pages": [[0, 0, 0]] * n_pages, **values} for i in range(n)
    ]
    return lambda d: d["blocks"].extend(blocks)


def packed(name, *sizes, codec="zlib"):
    """Pages of three rows each at the most, with such stored and raw lengths."""
    rows_per_page = 3 if len(sizes) == 2 else 5
    some = [[stored, raw, 0] for stored, raw in sizes]
    return in_block(name, pages=some, codec=codec, rows_per_page=rows_per_page)


def headers_page(stored, raw):
    return in_block(HEADERS, pages=[[stored, raw, 0]])


def many_runs(n):
    def edit(d):
        d["objects"] = [{**d["objects"][i % len(d["objects"])], "name": f"x/{i}"} for i in range(n)]

    return edit


def fields(n=1, **values):
    field = {"name": "x", "type": "|u1", "count": 1, **values}
    return in_block("key", fields=[[*field.values()]] * n)


BLOCKS = 3 + len(COLUMNS)
MIB = 2**20
BOUNDS = {  # layout, edit of a number, the number at the bound, and one beyond it
    "runs": ("record", many_runs, 2, 3),
    "runs-of-arrays": ("zarr", many_runs, 2 * (G + 1), 2 * (G + 1) + 1),
    "no-runs": ("record", many_runs, 1, 0),
    "run": ("record", lambda n: in_run(bytes=n), MAX_INT, MAX_INT + 1),
    "unused": ("record", lambda n: in_run(unused=n), MAX_INT, MAX_INT + 1),
    "chunk-least": ("zarr", lambda n: in_run(chunk=n), 1, 0),
    "chunk-most": ("zarr", lambda n: in_run(chunk=n), 2**31, 2**31 + 1),
    "chunk-there": ("zarr", lambda n: in_run(chunk=n), 8, None),
    "chunk-not-there": ("record", lambda n: in_run(chunk=n), None, 8),
    "run-name": ("record", lambda n: in_run(name="n" * n), 1024, 1025),
    "blocks": ("record", lambda n: later(0, n - BLOCKS), 2000, 2001),
    "block-name": ("record", lambda n: later(1, name="n" * n), 256, 257),
    "block-name-least": ("record", lambda n: later(1, name="n" * n), 1, 0),
    "pages": ("record", lambda n: later(n - BLOCKS), 65_536, 65_537),
    "pages-in-all": (
        "record",
        lambda n: edits(later(60_000, name="a"), later(n - BLOCKS - 60_000)),
        65_536,
        65_537,
    ),
    "fields": ("record", fields, 64, 65),
    "field-count": ("record", lambda n: fields(count=n), 65_536, 65_537),
    "rows-per-page": ("record", lambda n: in_block("key", rows_per_page=n), MAX_INT, MAX_INT + 1),
    "page": ("record", lambda n: packed("width", (2**18, n)), 2**24, 2**24 + 1),
    "page-of-two": (
        "record",
        lambda n: packed("source_sha256", (MIB, 2**23), (MIB, n)),
        2**24,
        2**24 + 1,
    ),
    "unpacked-page": (
        "record",
        lambda n: packed("width", (n, n), codec="none"),
        2**24,
        2**24 + 1,
    ),
    "unpacked-page-raw": ("record", lambda n: packed("width", (9, n), codec="none"), 9, 10),
    "page-of-headers": ("record", lambda n: headers_page(2**24 + 1, n), 2**24 + 1, 2**24),
    "ratio": ("record", lambda n: packed("width", (99, n)), MIB + 64 * 99, MIB + 64 * 99 + 1),
    "ratio-of-no-bytes": ("record", lambda n: packed("width", (0, n)), MIB, MIB + 1),
    "ratio-of-two-pages": (
        "record",
        lambda n: packed("width", (0, MIB), (99, n)),
        64 * 99,
        64 * 99 + 1,
    ),
    "keys": ("record", lambda n: packed("key", (MIB, 2**23), (MIB, n)), 2**23, 2**23 + 1),
}


@pytest.mark.parametrize(("layout", "edit", "fine", "beyond"), BOUNDS.values(), ids=BOUNDS)
def test_directories_are_held_to_their_bounds(layout, edit, fine, beyond):
    entry, data = with_directory(*part(layout), edit(fine), fit=True)
    assert isinstance(directory(data, entry, layout), Directory)
    forged = with_directory(*part(layout), edit(beyond), fit=True)
    with pytest.raises(FormatError, match=r"index/p\.pcri"):
        directory(forged[1], forged[0], layout)


def texts_of(n_blocks, key, n_items, item):
    """JSON of blocks that hold as much as they can of something small."""
    items = f"[{','.join([item] * n_items)}]"
    plain = {"name": "a", "kind": "b", "codec": "c", "rows": 1, "rows_per_page": 1, "pages": []}
    one = json.dumps({**plain, key: "?"}, separators=(",", ":")).replace('"?"', items)
    return f'{{"blocks":[{",".join([one] * n_blocks)}]}}'


RUN = json.dumps({"name": "a", "uid": "0" * 32, "bytes": 0})
HOSTILE = {
    "runs": f'{{"objects":[{",".join([RUN] * 120_000)}]}}',
    "pages": texts_of(16, "pages", 65_000, "[0,0,0]"),
    "pages-of-many-blocks": texts_of(2000, "pages", 500, "[0,0,0]"),
    "too-many-pages": texts_of(1, "pages", 1_000_000, "[0,0,0]"),
    "fields": texts_of(2000, "fields", 64, '["a","b",1]'),
    "shapes": texts_of(2000, "shape", 8, "65535"),
    "unknown-arrays": f'{{"later":[{",".join(["[0,0]"] * 1_300_000)}]}}',
    "unknown-objects": f'{{"later":[{",".join(["{}"] * 2_600_000)}]}}',
    "depth": '{"later":' + "[" * 4_000_000 + "]" * 4_000_000 + "}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_directory_takes_at_most_nine_times_its_longest(text):
    """Parsed six times, and two copies of it."""
    entry, data = with_text(*part(), text.encode())
    assert len(data) < MAX_DIRECTORY
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"index/p\.pcri"):
            directory(data, entry)
        assert tracemalloc.get_traced_memory()[1] < 9 * MAX_DIRECTORY
    finally:
        tracemalloc.stop()


def page(stored, raw_bytes, n_rows=4):
    return Page(
        start=0,
        stop=len(stored),
        raw_bytes=raw_bytes,
        checksum=crc32c(stored),
        first_row=0,
        n_rows=n_rows,
    )


def block(codec="zlib", dtype="<i4", column=None):
    row = None if column else np.dtype([("x", dtype)])
    return Block(
        name="x",
        kind="column" if column else "table",
        codec=codec,
        n_rows=4,
        rows_per_page=4,
        edges=np.array([0, 0]),
        pages=(),
        dtype=row,
        column=column,
    )


BOMB = zlib.compress(bytes(2**26), 9)
TEXT = Column(name="x", dtype="utf8", shape=())
LENGTHS = np.array([1, 2, 0, 3], "<u4").tobytes()
BAD_PAGES = {
    "bomb-of-rows": (block(), BOMB, 2**26),
    "bomb-that-says-little": (block(), BOMB, 16),
    "unpacks-to-less": (block(), zlib.compress(bytes(15)), 16),
    "unpacks-to-more": (block(), zlib.compress(bytes(17)), 16),
    "cut-stream": (block(), zlib.compress(bytes(16))[:-1], 16),
    "bytes-behind-stream": (block(), zlib.compress(bytes(16)) + b"x", 16),
    "two-streams": (block(), zlib.compress(bytes(16)) * 2, 16),
    "raw-deflate": (block(), zlib.compress(bytes(16), wbits=-15), 16),
    "gzip": (block(), zlib.compress(bytes(16), wbits=31), 16),
    "no-stream": (block(), b"not zlib at all", 16),
    "rows-short": (block("none"), bytes(12), 12),
    "rows-long": (block("none"), bytes(20), 20),
    "texts-without-lengths": (block("none", column=TEXT), bytes(15), 15),
    "texts-short": (block("none", column=TEXT), LENGTHS + b"abcde", 21),
    "texts-long": (block("none", column=TEXT), LENGTHS + b"abcdefg", 23),
    "text-of-4-gib": (block("none", column=TEXT), b"\xff" * 16, 16),
}


@pytest.mark.parametrize(("of", "stored", "raw"), BAD_PAGES.values(), ids=BAD_PAGES)
def test_pages_that_do_not_hold_their_rows_are_refused(of, stored, raw):
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(FormatError, match="here: x rows"):
            decode_page(of, page(stored, raw), stored, where="here")
        assert time.monotonic() - started < 1
        # A stream may unpack to what its block says, and the directory is held to 2^24 a page.
        assert tracemalloc.get_traced_memory()[1] < 2**22 + (2 * raw if raw == 2**26 else 0)
    finally:
        tracemalloc.stop()


def test_good_pages_are_read():
    stored = zlib.compress(bytes(16))
    assert decode_page(block(), page(stored, 16), stored, where="here")["x"].tolist() == [0] * 4
    stored = LENGTHS + b"abbccc"
    of = block("none", column=TEXT)
    got = decode_page(of, page(stored, len(stored)), stored, where="here")
    assert got == ["a", "bb", "", "ccc"]


def table(layout="record", **values):
    out = np.zeros(1, record_dtype(layout, G))
    out["n_images"], out["length"] = 2, [10, 20, 5]
    out["object"] = 0 if layout == "record" else [0, 1, 2]
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
LARGE = {  # of an object of 2^53 - 1 bytes
    "below-4-gib": ({"length": [2**32 - 42, 0, 1]}, True),
    "4-gib": ({"length": [2**32 - 42, 1, 1]}, False),
    "4-gib-with-its-header": ({"length": [2**32 - 1, 0, 0]}, False),
    "last-byte": ({"start": MAX_INT - 75}, True),
    "over-the-end": ({"start": MAX_INT - 74}, False),
}
ARRAYS = {  # of 100, 100 and 100,000 bytes in chunks of 8, 8 and 16
    "fits": ({"start": [90, 80, 99_995]}, True),
    "one-over-in-the-first": ({"start": [91, 80, 0]}, False),
    "one-over-in-the-last": ({"start": [0, 0, 99_996]}, False),
    "far": ({"start": [0, 2**64 - 1, 0]}, False),
    "most-chunks": ({"length": [1, 1, 4096 * 16]}, True),
    "most-chunks-from-the-last-byte-of-one": (
        {"start": [0, 0, 15], "length": [1, 1, 4095 * 16 + 1]},
        True,
    ),
    "a-chunk-more": ({"start": [0, 0, 15], "length": [1, 1, 4095 * 16 + 2]}, False),
    "chunks-of-another-array": ({"object": [2, 1, 0], "length": [80_000, 1, 1]}, False),
    "in-another-order": ({"object": [2, 1, 0], "length": [60_000, 1, 1]}, True),
    "one-array": ({"object": [0, 0, 0], "start": [0, 10, 30]}, True),
    "no-array": ({"object": [0, 1, 3]}, False),
    "no-bytes-at-the-end": ({"start": [100, 100, 100_000], "length": [0, 0, 0]}, True),
    "no-bytes-beyond-the-end": ({"start": [101, 100, 100_000], "length": [0, 0, 0]}, False),
}


def placed(layout, sizes, chunks=None):
    entry, data = part(layout)
    d = directory(data, entry, layout)
    changed = [
        replace(run, n_bytes=size, chunk=chunk)
        for run, size, chunk in zip(d.runs, sizes, chunks or [None] * len(sizes), strict=True)
    ]
    return dataclasses.replace(d, runs=tuple(changed))


@pytest.mark.parametrize(
    ("layout", "d", "values", "fine"),
    [
        *(pytest.param("record", placed("record", [100]), *row, id=k) for k, row in SIZES.items()),
        *(
            pytest.param("record", placed("record", [MAX_INT]), *row, id=k)
            for k, row in LARGE.items()
        ),
        *(
            pytest.param(
                "zarr", placed("zarr", [100, 100, 100_000], [8, 8, 16]), *row, id=f"arrays-{k}"
            )
            for k, row in ARRAYS.items()
        ),
    ],
)
def test_records_lie_inside_their_runs(layout, d, values, fine):
    sizes = np.array([40])
    if fine:
        check_records(table(layout, **values), d, header_sizes=sizes)
    else:
        with pytest.raises(FormatError, match=r"index/p\.pcri: record 0 must lie inside"):
            check_records(table(layout, **values), d, header_sizes=sizes)


def test_the_first_record_that_lies_outside_is_named():
    some = np.concatenate([table(), table(), table(start=99), table(start=98)])
    with pytest.raises(FormatError, match="record 2 must lie inside"):
        check_records(some, placed("record", [100]), header_sizes=np.full(4, 40))


@given(start=st.integers(0, 99), length=st.integers(0, 99), chunk=st.integers(1, 20))
def test_pieces_are_the_chunks_that_hold_a_byte(start, length, chunk):
    touched = {byte // chunk for byte in range(start, start + length)}
    got = n_pieces(np.array([start]), np.array([length]), np.array([chunk]))
    assert got.tolist() == [len(touched)]


def test_header_edges_are_those_of_the_headers():
    some = rows(sizes=(1, 7, 8, 9))
    edges = header_edges(some.records, G).tolist()
    assert np.diff(edges).tolist() == list(map(len, some.headers))
