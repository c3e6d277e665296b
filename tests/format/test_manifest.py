"""A manifest round trips, and one that was damaged or forged is refused at once."""

import copy
import json
import math
import time
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_parts import enveloped, manifest

from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError
from pcrstore.format.manifest import (
    decode_latest,
    decode_manifest,
    encode_latest,
    encode_manifest,
)

RECORD, ZARR = encode_manifest(manifest("record")), encode_manifest(manifest("zarr"))


def decode(data, version=1):
    return decode_manifest(data, version=version, where="here")


def body():
    return json.loads(RECORD.partition(b"\n")[2])


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_manifest_round_trips(layout):
    m = manifest(layout)
    data = encode_manifest(m)
    assert decode(data) == m
    assert encode_manifest(decode(data)) == data


texts = st.text(max_size=20)


@settings(max_examples=40)
@given(
    version=st.integers(1, 2**32 - 2),
    classes=st.lists(texts, max_size=5),
    splits=st.lists(texts, max_size=5),
    options=st.dictionaries(texts, texts, max_size=3),
    writer=texts,
    scores=st.lists(st.floats(-1, 1), min_size=2, max_size=2),
)
def test_any_text_round_trips(version, classes, splits, options, writer, scores):
    m = manifest(
        version=version,
        classes=tuple(classes),
        splits=tuple(splits),
        options=options,
        writer=writer,
        quality=replace(manifest().quality, ms_ssim=tuple(scores)),
    )
    assert decode(encode_manifest(m), version) == m


def test_content_is_compared_without_who_and_when():
    m = manifest()
    assert m.same_content(replace(m, writer="other", created="later"))
    assert not m.same_content(replace(m, classes=()))


def test_every_flipped_bit_is_detected():
    for at in range(len(RECORD)):
        for bit in range(8):
            bad = bytearray(RECORD)
            bad[at] ^= 1 << bit
            with pytest.raises(FormatError):
                decode(bytes(bad))


def test_every_truncation_is_detected():
    for n in range(len(RECORD)):
        with pytest.raises(ChecksumError):
            decode(RECORD[:n])


@pytest.mark.parametrize("tail", [b"\n", b"\x00", b" ", RECORD])
def test_bytes_behind_the_end_are_detected(tail):
    with pytest.raises(ChecksumError):
        decode(RECORD + tail)


def test_another_versions_manifest_is_refused():
    with pytest.raises(FormatError, match="version must be 2, as its name says"):
        decode(RECORD, 2)


NEWER = {
    "version-2": RECORD.replace(b" v1 ", b" v2 ", 1),
    "version-999": RECORD.replace(b" v1 ", b" v999 ", 1),
    "new-first-line": b"pcrstore-manifest v2 sha256=ab\n{}",
    "feature": enveloped(json.dumps({**body(), "features": ["shiny"]}).encode()),
}


@pytest.mark.parametrize("data", NEWER.values(), ids=NEWER)
def test_newer_formats_ask_for_an_upgrade(data):
    with pytest.raises(UnsupportedFormatError, match="upgrade pcrstore"):
        decode(data)


def test_unknown_fields_are_ignored():
    assert decode(enveloped(json.dumps({**body(), "later": [1]}).encode())) == manifest()


BAD_LINES = {
    "empty": b"",
    "html": b"<html>Not found</html>",
    "zeros": bytes(200),
    "no-body": RECORD.partition(b"\n")[0],
    "crlf": RECORD.replace(b"\n", b"\r\n", 1),
    "upper-case": RECORD.replace(b"crc32c=", b"CRC32C=", 1),
    "leading-zero": RECORD.replace(b"bytes=", b"bytes=0", 1),
    "version-0": RECORD.replace(b" v1 ", b" v0 ", 1),
    "version-minus": RECORD.replace(b" v1 ", b" v-1 ", 1),
    "two-spaces": RECORD.replace(b" v1 ", b"  v1 ", 1),
    "length-of-digits": b"pcrstore-manifest v1 crc32c=00000000 bytes=" + b"9" * 5000 + b"\n",
    "version-of-digits": b"pcrstore-manifest v" + b"9" * 5000 + b" \n",
}


@pytest.mark.parametrize("data", BAD_LINES.values(), ids=BAD_LINES)
def test_bad_first_lines_are_refused(data):
    with pytest.raises(FormatError):
        decode(data)


def at(path, value):
    """An edit that sets the field at `path`; `...` for a missing one."""

    def edit(m):
        *parents, last = path
        for step in parents:
            m = m[step]
        if value is ...:
            del m[last]
        else:
            m[last] = value

    return edit


def repeated_part(m):
    m["parts"] *= 2
    m["n_images"] *= 2
    m["n_records"] *= 2


P = ("parts", 0)
HOSTILE = {
    **{f"no-{name}": at([name], ...) for name in sorted(body())},
    **{f"{name}-null": at([name], None) for name in sorted(body())},
    **{
        f"{'-'.join(map(str, path))}-{label}": at(path, value)
        for path in (
            ("version",),
            ("n_images",),
            ("n_records",),
            ("bytes", "sources"),
            ("bytes", "groups", 0),
            ("quality", "n_images"),
            (*P, "images"),
            (*P, "records"),
            (*P, "bytes"),
            (*P, "directory", 0),
            ("checked", 0, "bytes"),
            ("columns", 8, "width"),
        )
        for label, value in {
            "minus": -1,
            "huge": 2**63,
            "text": "1",
            "float": 1.5,
            "list": [1],
            "infinite": math.inf,
        }.items()
    },
    **{
        f"name-{i}": at([*P, "name"], name)
        for i, name in enumerate(
            [
                "../x",
                "/etc/passwd",
                "s3://b/x",
                "http://h/x",
                "a//b",
                "",
                "a\\b",
                "\ud800",
                "a" * 9999,
            ]
        )
    },
    "checked-name": at(["checked", 0, "name"], "../../x"),
    "uid-short": at([*P, "uid"], "00"),
    "uid-not-hex": at([*P, "uid"], "zz" * 16),
    "directory-one-number": at([*P, "directory"], [100]),
    "directory-over-part": at([*P, "directory"], [10**7, 0]),
    "directory-over-16-mib": at(
        [*P], {**body()["parts"][0], "bytes": 2**40, "directory": [2**24 + 1, 0]}
    ),
    "directory-tiny": at([*P, "directory"], [12, 0]),
    "part-without-images": at([*P, "images"], 0),
    "part-over-65536-images": at([*P], {**body()["parts"][0], "images": 65_537, "bytes": 2**40}),
    "part-smaller-than-its-headers": at(
        [*P], {**body()["parts"][0], "bytes": 79, "directory": [20, 0]}
    ),
    "more-records-than-images": at([*P, "records"], 6),
    "repeated-part": repeated_part,
    "images-do-not-add-up": at(["n_images"], 6),
    "records-do-not-add-up": at(["n_records"], 3),
    "no-groups": at(["groups"], []),
    "eight-groups": at(["groups"], list("abcdefgh")),
    "three-groups": at(["groups"], list("abc")),
    "format": at(["format"], "other"),
    "layout": at(["layout"], "tar"),
    "layout-without-chunks": at(["layout"], "zarr"),
    "chunks-of-records": at(["chunk_bytes"], [1, 2, 3]),
    "totals-of-one-group": at(["bytes", "groups"], [1]),
    "quality-of-one-group": at(["quality", "ms_ssim"], [1.0]),
    "quality-over-1": at(["quality", "ms_ssim"], [1.0, 1.5]),
    "256-splits": at(["splits"], ["s"] * 256),
    "dtype-object": at(["columns", 0, "dtype"], "|O"),
    "dtype-void": at(["columns", 1, "dtype"], "V1000000000"),
    "width-0": at(["columns", 8, "width"], 0),
    "width-1025": at(["columns", 8, "width"], 1025),
    "column-twice": lambda m: m["columns"].append(m["columns"][0]),
    "column-named-like-a-table": lambda m: m["columns"].append(
        {"name": "records", "dtype": "|u1", "width": 1}
    ),
    "no-key-column": lambda m: m["columns"].pop(0),
    "label-of-text": at(["columns", 1, "dtype"], "utf8"),
    "label-of-two": at(["columns", 1, "width"], 2),
    "option-not-text": at(["options"], {"a": 1}),
    "features-not-a-list": at(["features"], "shiny"),
    "classes-of-numbers": at(["classes"], [1]),
    "script-a-string": at(["script"], "x"),
    "script-long": at(["script", "text"], "x" * 65_537),
}
ZARR_HOSTILE = {
    "chunk-0": at(["chunk_bytes"], [5, 0, 7]),
    "chunk-minus": at(["chunk_bytes"], [5, -6, 7]),
    "chunk-over-2-gib": at(["chunk_bytes"], [5, 6, 2**31 + 1]),
    "too-few-chunks": at(["chunk_bytes"], [5, 6]),
    "too-many-chunks": at(["chunk_bytes"], [5, 6, 7, 8]),
}


def refused(data):
    """It is refused within a second and without a large allocation."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(FormatError, match="here"):
            decode(data)
        assert time.monotonic() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 32 * len(data) + 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE)
def test_forged_manifests_are_refused(edit):
    m = copy.deepcopy(body())
    edit(m)
    refused(enveloped(json.dumps(m).encode()))


@pytest.mark.parametrize("edit", ZARR_HOSTILE.values(), ids=ZARR_HOSTILE)
def test_forged_chunk_sizes_are_refused(edit):
    m = json.loads(ZARR.partition(b"\n")[2])
    edit(m)
    refused(enveloped(json.dumps(m).encode()))


BAD_TEXT = {
    "nan": RECORD.partition(b"\n")[2].replace(b"0.9", b"NaN"),
    "repeated-key": b'{"format":"pcrstore",' + RECORD.partition(b"\n")[2][1:],
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many-parts": json.dumps({**body(), "parts": [{}] * 100_000}).encode(),
    "many-images": json.dumps({**body(), "n_images": 2**53 - 1}).encode(),
    "empty": b"",
    "not-an-object": b"[]",
}


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT)
def test_hostile_json_is_refused(text):
    refused(enveloped(text))


def test_a_manifest_has_a_largest_size():
    n = len(RECORD)
    with pytest.raises(FormatError, match=f"at most {n - 1} bytes, got {n}"):
        decode_manifest(RECORD, version=1, where="here", max_bytes=n - 1)
    assert decode_manifest(RECORD, version=1, where="here", max_bytes=n) == manifest()


def test_the_hint_round_trips_and_detects_damage():
    for version in (1, 99, 2**32 - 2):
        data = encode_latest(version)
        assert decode_latest(data, where="here") == version
        for i in range(len(data)):
            for bad in (data[:i], data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]):
                with pytest.raises(ChecksumError, match="here"):
                    decode_latest(bad, where="here")


def test_a_hint_to_no_version_is_refused():
    with pytest.raises(ChecksumError):
        decode_latest(encode_latest(2**32 - 1), where="here")


def test_a_part_may_be_as_small_as_its_headers():
    m = body()
    m["parts"][0].update(bytes=80, directory=[20, 0])
    assert decode(enveloped(json.dumps(m).encode())).parts[0].n_bytes == 80


UNREADABLE = {
    "256-splits": {"splits": ("s",) * 256},
    "long-class-name": {"classes": ("c" * 4097,)},
    "images-of-no-part": {"n_images": 9},
    "two-equal-parts": {"parts": manifest().parts * 2, "n_images": 10, "n_records": 4},
    "not-the-columns": {"columns": ()},
}


@pytest.mark.parametrize("changes", UNREADABLE.values(), ids=UNREADABLE)
def test_what_no_reader_would_take_is_never_written(changes):
    with pytest.raises(FormatError, match="manifest to be written"):
        encode_manifest(manifest(**changes))


def test_a_manifest_too_long_to_read_is_never_written():
    names = tuple(f"{i:04000}" for i in range(4200))
    with pytest.raises(FormatError, match="at most 16777216 bytes"):
        encode_manifest(manifest(classes=names))
