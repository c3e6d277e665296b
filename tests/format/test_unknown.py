"""What a later version may add: fields and blocks are ignored, words refused with what is theirs.

Section 1.1 of FORMAT.md.
"""

import dataclasses
import json
import struct

import numpy as np
import pytest
from index_parts import G, enveloped, manifest, part, rows, with_directory

from pcrstore.core.checksum import crc32c
from pcrstore.errors import FormatError, UnsupportedFormatError
from pcrstore.format.columns import COLUMNS, Column
from pcrstore.format.index import HEADERS, RECORDS, RESTORE, record_dtype
from pcrstore.format.index_pages import decode_directory, decode_page, rows_as
from pcrstore.format.index_rows import decode_part
from pcrstore.format.manifest import decode_manifest, encode_manifest
from pcrstore.format.record import parse_header

TABLES = [RECORDS, RESTORE, HEADERS]
LATER = {"later": {"a": [1, "b", None]}, "": 5, "\u00e9": 1.5}


def directory(entry, data, columns=COLUMNS):
    return decode_directory(
        data[: entry.head.n_bytes], entry, layout="record", n_groups=G, columns=columns
    )


def read(entry, data, name, columns=COLUMNS):
    """All rows of a block, by itself."""
    d = directory(entry, data, columns)
    block = d.tables[name] if name in TABLES else d.columns[name]
    page = block.page(0)
    return decode_page(block, page, data[page.start : page.stop], where=entry.name)


def add(*path, later=LATER):
    """An edit that adds fields to the object at a path, or items to the array there."""

    def edit(value):
        for step in path:
            value = value[step]
        if isinstance(value, dict):
            value.update(later)
        else:
            value.extend(later.values())

    return edit


def in_block(which, **values):
    def edit(d):
        next(b for b in d["blocks"] if b["name"] == which).update(values)

    return edit


MANIFEST_PATHS = [
    (),
    ("bytes",),
    ("script",),
    ("columns", 0),
    ("parts", 0),
    ("parts", 0, "directory"),
    ("checked", 0),
    ("conversions", 0),
    ("quality", 0),
]
DIRECTORY_PATHS = [
    (),
    ("objects", 0),
    ("blocks", 0),
    ("blocks", 0, "fields", 0),
    ("blocks", 0, "pages", 0),
    ("blocks", 1),
    ("blocks", -1),
]


@pytest.mark.parametrize("path", MANIFEST_PATHS, ids=str)
def test_fields_of_a_manifest_are_ignored(path):
    m = json.loads(encode_manifest(manifest()).partition(b"\n")[2])
    add(*path)(m)
    text = json.dumps(m).encode()
    assert decode_manifest(enveloped(text), version=1, where="here") == manifest()


@pytest.mark.parametrize("path", DIRECTORY_PATHS, ids=str)
def test_fields_of_a_directory_are_ignored(path):
    entry, data = with_directory(*part(), add(*path))
    again = decode_part(data, directory(entry, data), COLUMNS)
    assert again.headers == rows().headers
    assert again.columns["key"] == rows().columns["key"]
    assert directory(entry, data).runs == directory(*part()).runs


NEW = {"name": "later", "kind": "later", "codec": "lz4", "rows": 2**53 - 1, "rows_per_page": 3}
BLOCKS = {
    "kind": {},
    "kind-of-a-known-name": {"name": RECORDS},
    "kind-with-fields": {"fields": [["x", "<c16", 3]], "dtype": "|V9", "shape": [1], "nulls": True},
    "table": {"kind": "table", "fields": [["x", "<f4", 1]]},
    "headers": {"kind": "headers"},
    "column-of-no-manifest": {"kind": "column", "dtype": "<i4", "shape": [], "nulls": False},
    "pages-that-unpack-to-much": {"pages": [[9, 2**53 - 1, 0]]},
    "twice": {"pages": [[1, 1, 0], [0, 0, 0]]},
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("values", BLOCKS.values(), ids=BLOCKS)
def test_blocks_are_passed_over(values, first):
    """Their bytes are counted: the blocks behind them are found."""
    block = {**NEW, "pages": [[9, 9, 0]], **values}
    size = sum(page[0] for page in block["pages"])
    entry, data = part()

    def edit(d):
        d["blocks"] = [block, *d["blocks"]] if first else [*d["blocks"], block]

    head = entry.head.n_bytes
    data = data[:head] + bytes(size) + data[head:] if first else data + bytes(size)
    entry, data = with_directory(entry, data, edit)
    again = decode_part(data, directory(entry, data), COLUMNS)
    assert again.headers == rows().headers
    assert again.columns["key"] == rows().columns["key"]


def refused(match):
    return pytest.raises(UnsupportedFormatError, match=match + ".*; upgrade pcrstore$")


MANIFEST_WORDS = {
    "feature": ({"features": ["shiny"]}, "needs shiny"),
    "features": ({"features": ["b", "a"]}, "needs a, b"),
    "layout": ({"layout": "tar"}, "needs layout 'tar'"),
    "both": ({"features": ["a"], "layout": "tar"}, "needs a, layout 'tar'"),
    # What such a version says of its other fields is not for this reader to judge.
    "feature-and-other-fields": ({"features": ["a"], "groups": 5, "parts": "x"}, "needs a"),
    "layout-and-other-fields": ({"layout": "tar", "version": 0}, "needs layout"),
}


@pytest.mark.parametrize(("values", "match"), MANIFEST_WORDS.values(), ids=MANIFEST_WORDS)
def test_words_of_a_manifest_are_refused_with_the_dataset(values, match):
    m = json.loads(encode_manifest(manifest()).partition(b"\n")[2])
    with refused(f"^here: {match}"):
        decode_manifest(enveloped(json.dumps({**m, **values}).encode()), version=1, where="here")


@pytest.mark.parametrize("version", [2, 10, 999_999_999])
def test_a_version_of_the_format_is_refused_whatever_follows(version):
    for tail in (b"crc32c=00000000 bytes=2\n{}", b"sha256=ab\n", b"\xff"):
        with refused(f"^here: format version {version} is newer"):
            decode_manifest(b"pcrstore-manifest v%d " % version + tail, version=1, where="here")


def test_features_that_only_writers_need_are_read():
    m = manifest(write_features=("shiny",))
    assert decode_manifest(encode_manifest(m), version=1, where="here") == m


@pytest.mark.parametrize("name", [RECORDS, "key", "label", RESTORE])
def test_a_codec_is_refused_with_its_block(name):
    entry, data = with_directory(*part(), in_block(name, codec="zstd"))
    with refused(rf"^index/p\.pcri: {name} rows 0\.\.\d are stored with codec 'zstd'"):
        read(entry, data, name)
    plain = part()
    for other in {*TABLES, *(c.name for c in COLUMNS)} - {name}:
        got, expected = read(entry, data, other), read(*plain, other)
        assert np.array_equal(np.asarray(got), np.asarray(expected)), other


MINE = Column(name="mine", dtype="<f16", shape=(2,))


def test_the_type_of_a_column_is_refused_with_that_column():
    columns = (*COLUMNS, MINE)
    block = {
        **NEW,
        "name": "mine",
        "kind": "column",
        "codec": "none",
        "rows": 5,
        "pages": [[n, n, crc32c(bytes(n))] for n in (3, 2)],
        "dtype": "<f16",
        "shape": [2],
        "nulls": False,
    }
    entry, data = part()
    entry, data = with_directory(entry, data + bytes(5), lambda d: d["blocks"].append(block))
    with refused(r"^index/p\.pcri: mine rows 0\.\.3: column mine has the type '<f16'"):
        read(entry, data, "mine", columns)
    assert read(entry, data, "key", columns) == rows().columns["key"]
    m = manifest(columns=columns)
    assert decode_manifest(encode_manifest(m), version=1, where="here").column("mine") == MINE


def test_the_type_of_a_column_that_a_part_lacks_is_refused_as_well():
    entry, data = part()
    columns = (*COLUMNS, MINE)
    with refused(r"^index/p\.pcri: column mine has the type '<f16'"):
        decode_part(data, directory(entry, data, columns), columns)
    assert read(entry, data, "key", columns) == rows().columns["key"]


def test_a_flag_of_a_record_header_is_refused_with_that_record():
    some = rows()
    entry, data = part()
    d = directory(entry, data)
    first, second = some.headers
    seed = d.seed(some.records[0])
    body = first[8:11] + b"\x80" + first[12:]
    flagged = b"PCR1" + struct.pack("<I", crc32c(body) ^ seed) + body
    with refused("^here: record header has flags 0x80"):
        parse_header(flagged, seed=seed, n_images=2, n_groups=G, where="here")
    seed = d.seed(some.records[1])
    assert parse_header(second, seed=seed, n_images=3, n_groups=G, where="here").n_images == 3


@pytest.mark.parametrize("name", [RECORDS, RESTORE])
@pytest.mark.parametrize("dtype", ["<f4", "<i4", ">u4", "u4", "", "|O"])
def test_a_field_of_an_unknown_type_is_refused_with_its_part(name, dtype):
    """Its rows cannot be cut without knowing how long it is."""

    def edit(d):
        block = next(b for b in d["blocks"] if b["name"] == name)
        block["fields"].append(["later", dtype, 1])

    entry, data = with_directory(*part(), edit)
    with refused(
        rf"^index/p\.pcri: block {name} has a field of type '{dtype}'".replace("|", r"\|")
    ):
        directory(entry, data)


def restated(name, change, layout="record"):
    """A part whose table has other fields: what a later writer may store."""
    some = rows(layout)
    old = some.records if name == RECORDS else some.restore
    fields = change({n: (old.dtype[n].base.str, old.dtype[n].shape) for n in old.dtype.names})
    new = np.zeros(len(old), [(n, *field) for n, field in fields.items()])
    for n in new.dtype.names:
        new[n] = old[n] if n in old.dtype.names else 7
    return dataclasses.replace(some, **{name: new})


FIELDS = {
    "reversed": lambda f: dict(reversed(f.items())),
    "wider": lambda f: {n: ("<u8", shape) for n, (_, shape) in f.items()},
    "narrower": lambda f: {n: ("|u1", shape) for n, (_, shape) in f.items()},
    "another": lambda f: {"a": ("|u1", (3,)), **f, "z": ("<u8", ())},
    "all": lambda f: {"a": ("<u2", ()), **{n: ("<u8", s) for n, (_, s) in reversed(f.items())}},
}


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("name", [RECORDS, RESTORE])
@pytest.mark.parametrize("change", FIELDS.values(), ids=FIELDS)
def test_fields_of_a_table_are_found_by_name(change, name, layout):
    entry, data = part(layout, restated(name, change, layout))
    d = decode_directory(
        data[: entry.head.n_bytes], entry, layout=layout, n_groups=G, columns=COLUMNS
    )
    again = decode_part(data, d, COLUMNS)
    for got, expected in (
        (again.records, rows(layout).records),
        (again.restore, rows(layout).restore),
    ):
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)


LARGE = {  # table, field, the largest number, and the type of its field in this version
    "object": (RECORDS, "object", 2**32),
    "ordinal": (RECORDS, "ordinal", 2**32),
    "n_images": (RECORDS, "n_images", 2**32),
    "length": (RECORDS, "length", 2**32),
    "restore-length": (RESTORE, "length", 2**32),
    "restore-checksum": (RESTORE, "checksum", 2**32),
}


@pytest.mark.parametrize(("name", "field", "bound"), LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("more", [0, 1, 2**32 - 1, 2**50])
def test_numbers_too_large_for_their_field_are_refused(name, field, bound, more):
    some = restated(name, FIELDS["wider"])
    table = some.records if name == RECORDS else some.restore
    table[field][-1] = bound + more
    entry, data = part(some=some)
    with pytest.raises(FormatError, match=rf"index/p\.pcri: {name}: {field} must be below 2\^32"):
        decode_part(data, directory(entry, data), COLUMNS)


def test_a_number_that_fits_is_taken_from_a_wider_field():
    some = restated(RECORDS, FIELDS["wider"])
    some.records["ordinal"][-1] = 2**32 - 1
    row = record_dtype("record", G)
    assert rows_as(some.records, row, "here")["ordinal"].tolist() == [0, 2**32 - 1]
