"""A manifest round trips, and one that was damaged or forged is refused at once."""

import copy
import json
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_parts import enveloped, manifest, measurement
from msgspec.structs import replace

from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError
from pcrstore.format.index import MAX_DIRECTORY
from pcrstore.format.manifest import (
    MAX_LATEST,
    MAX_MANIFEST,
    decode_latest,
    decode_manifest,
    encode_latest,
    encode_manifest,
)
from pcrstore.format.names import MAX_VERSION
from pcrstore.jpeg import MAX_GROUPS

RECORD = encode_manifest(manifest("record"))


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


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=40)
@given(
    version=st.integers(1, 2**32 - 2),
    classes=st.lists(texts, max_size=5),
    splits=st.lists(texts, max_size=5, unique=True),
    options=st.dictionaries(texts, texts, max_size=3),
    writer=texts,
    scores=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
)
def test_any_text_round_trips(version, classes, splits, options, writer, scores):
    (conversion,) = manifest().conversions
    m = manifest(
        version=version,
        classes=tuple(classes),
        splits=tuple(splits),
        conversions=(replace(conversion, options=options),),
        writer=writer,
        quality=(measurement(scores=tuple(scores)),),
    )
    assert decode(encode_manifest(m), version) == m


def test_quality_may_be_missing():
    m = body()
    del m["quality"]
    assert decode(enveloped(json.dumps(m).encode())) == manifest(quality=())


def test_measurements_are_found_by_their_metric():
    m = manifest(quality=(measurement("psnr", (30.0, 40.0)), measurement()))
    assert m.measured("psnr").mean == (30.0, 40.0)
    assert m.measured().metric == "ms_ssim"
    assert m.measured("lpips") is None
    assert m.column("key").dtype == "utf8"
    assert m.column("lpips") is None


def test_content_is_compared_without_who_and_when():
    m = manifest()
    (conversion,) = m.conversions
    later = (replace(conversion, created="later"),)
    assert m.same_content(
        replace(m, uid="ff" * 16, writer="other", created="later", conversions=later)
    )
    others = (replace(conversion, id="ff" * 16),)
    for changes in ({"classes": ()}, {"conversions": others}, {"version": 2}, {"quality": ()}):
        assert not m.same_content(replace(m, **changes))


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
}


@pytest.mark.parametrize("data", NEWER.values(), ids=NEWER)
def test_newer_formats_ask_for_an_upgrade(data):
    with pytest.raises(UnsupportedFormatError, match="upgrade pcrstore"):
        decode(data)


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


def many(path, make):
    """An edit of a number that puts a list of so many items there."""

    def edit(n):
        return at(path, [make(i) for i in range(n)])

    return edit


def text(path, prefix=""):
    """An edit of a number that puts a text of so many characters there."""
    return lambda n: at(path, prefix + "x" * (n - len(prefix)))


def number(path):
    return lambda n: at(path, n)


def updated(path, **values):
    """An edit that sets several fields of an object."""

    def edit(m):
        for step in path:
            m = m[step]
        m.update(values)

    return edit


def groups(n):
    """A manifest of n groups."""

    def edit(m):
        m["groups"] = [f"g{i}" for i in range(n)]
        m["bytes"]["groups"] = [1] * n
        m["parts"][0]["bytes"] += 8 * 5 * n
        m["quality"] = []

    return edit


def repeated_part(m):
    m["parts"] *= 2
    m["n_images"] *= 2
    m["n_records"] *= 2


def parts_of_one_image(n):
    def edit(m):
        plain = {"uid": "0" * 32, "n_images": 1, "n_records": 1, "bytes": 99, "directory": [13, 0]}
        m["parts"] = [{"name": f"index/{i}", **plain} for i in range(n)]
        m["n_images"] = m["n_records"] = n

    return edit


def conversions(n):
    plain = {"created": "", "software": "", "n_images": 0, "options": {}, "report": None}
    return at(["conversions"], [{"id": f"{i:032x}", **plain} for i in range(n)])


def checked(n):
    return updated(
        [],
        checked=[{"name": str(i), "bytes": 0, "crc32c": 0} for i in range(n)],
        conversions=[],
    )


def checked_named(n):
    def edit(m):
        m["checked"][0]["name"] = m["conversions"][0]["report"] = "n" * n

    return edit


def columns(n):
    """Those that a manifest must have, and others."""
    return lambda m: m["columns"].extend(
        {"name": str(i), "dtype": "later", "shape": []} for i in range(n - len(m["columns"]))
    )


def shape(*items):
    return lambda m: m["columns"].append({"name": "x", "dtype": "<f4", "shape": [*items]})


def column_named(n):
    return lambda m: m["columns"].append({"name": "n" * n, "dtype": "<f4", "shape": []})


def column_typed(n):
    return lambda m: m["columns"].append({"name": "x", "dtype": "d" * n, "shape": []})


def percentiles(n):
    return at(["quality", 0, "percentiles"], {f"{i / 2}": [1.0, 1.0] for i in range(n)})


def measurements(n):
    return lambda m: m.update(quality=[{**m["quality"][0], "metric": f"m{i}"} for i in range(n)])


def part_of(**values):
    """An edit of the part and of the sums over the parts."""

    def edit(m):
        m["parts"][0].update(values)
        for name in ("n_images", "n_records"):
            m[name] = m["parts"][0][name]

    return edit


C, P = ("conversions", 0), ("parts", 0)
LARGE = 2**32 - 1
MAX_INT = 2**53 - 1
BOUNDS = {  # edit of a number, the number at the bound, and one beyond it
    "write-features": (many(["write_features"], str), 64, 65),
    "write-feature": (lambda n: at(["write_features"], ["w" * n]), 64, 65),
    "version": (number(["version"]), 1, 0),
    "created": (text(["created"]), 128, 129),
    "writer": (text(["writer"]), 128, 129),
    "groups": (groups, MAX_GROUPS, MAX_GROUPS + 1),
    "groups-least": (groups, 1, 0),
    "group-label": (text(["groups", 0]), 32, 33),
    "group-label-least": (text(["groups", 0]), 1, 0),
    "script-name": (text(["script", "name"]), 64, 65),
    "script-text": (text(["script", "text"]), 65_536, 65_537),
    "totals": (number(["bytes", "restore"]), MAX_INT, MAX_INT + 1),
    "classes": (many(["classes"], str), 1_000_000, 1_000_001),
    "class": (text(["classes", 0]), 4096, 4097),
    "splits": (many(["splits"], str), 255, 256),
    "split": (text(["splits", 0]), 4096, 4097),
    "columns": (columns, 1000, 1001),
    "column-name": (column_named, 256, 257),
    "column-name-least": (column_named, 1, 0),
    "column-type": (column_typed, 64, 65),
    "shape-items": (lambda n: shape(*[1] * n), 8, 9),
    "shape-item-least": (lambda n: shape(2, n), 1, 0),
    "shape-item-most": (shape, 65_536, 65_537),
    "shape-product": (lambda n: shape(256, n), 256, 257),
    "shape-product-of-a-row": (lambda n: shape(None, 2, n), 2**15, 2**15 + 1),
    "shape-null": (lambda n: shape(n, 4), None, 0),
    "parts": (parts_of_one_image, 100_000, 100_001),
    "checked": (checked, 100_000, 100_001),
    "checked-bytes": (number(["checked", 0, "bytes"]), 64 * 2**20, 64 * 2**20 + 1),
    "checked-name": (checked_named, 1024, 1025),
    "conversions": (conversions, 100_000, 100_001),
    "options": (lambda n: at([*C, "options"], {str(i): "" for i in range(n)}), 1000, 1001),
    "option": (text([*C, "options", "seed"]), 65_536, 65_537),
    "option-name": (lambda n: at([*C, "options"], {"n" * n: ""}), 128, 129),
    "software": (text([*C, "software"]), 128, 129),
    "conversion-created": (text([*C, "created"]), 128, 129),
    "conversion-images": (number([*C, "n_images"]), MAX_INT, MAX_INT + 1),
    "quality": (measurements, 64, 65),
    "metric": (text(["quality", 0, "metric"]), 128, 129),
    "measured-images-least": (number(["quality", 0, "n_images"]), 1, 0),
    "measured-images-most": (number(["quality", 0, "n_images"]), MAX_INT, MAX_INT + 1),
    "percentiles": (percentiles, 101, 102),
    "object-name": (text([*P, "name"], "index/"), 1024, 1025),
    "part-images": (lambda n: part_of(n_images=n, bytes=LARGE), 65_536, 65_537),
    "part-images-least": (lambda n: part_of(n_images=n, n_records=n), 1, 0),
    "part-records": (lambda n: part_of(n_records=n), 5, 6),
    "part-records-least": (lambda n: part_of(n_records=n), 1, 0),
    "part-bytes": (lambda n: part_of(bytes=n), LARGE, LARGE + 1),
    "part-bytes-least": (lambda n: part_of(bytes=n, directory=[20, 0]), 20 + 8 * 2 * 5, 99),
    "directory-least": (lambda n: part_of(directory=[n, 0]), 13, 12),
    "directory-most": (
        lambda n: part_of(directory=[n, 0], bytes=LARGE),
        MAX_DIRECTORY,
        MAX_DIRECTORY + 1,
    ),
}


@pytest.mark.parametrize(("edit", "fine", "beyond"), BOUNDS.values(), ids=BOUNDS)
def test_manifests_are_held_to_their_bounds(edit, fine, beyond):
    m = copy.deepcopy(body())
    edit(fine)(m)
    decode(enveloped(compact(m)))
    m = copy.deepcopy(body())
    edit(beyond)(m)
    refused(enveloped(compact(m)))


def compact(m):
    return json.dumps(m, separators=(",", ":")).encode()


HOSTILE = {
    **{f"no-{name}": at([name], ...) for name in sorted(body().keys() - {"quality"})},
    **{f"{name}-null": at([name], None) for name in sorted(body())},
    **{
        f"{'-'.join(map(str, path))}-{label}": at(path, value)
        for path in (
            ("version",),
            ("n_images",),
            ("n_records",),
            ("bytes", "sources"),
            ("bytes", "groups", 0),
            ("quality", 0, "n_images"),
            (*P, "n_images"),
            (*P, "n_records"),
            (*P, "bytes"),
            (*P, "directory", 0),
            (*P, "directory", 1),
            ("checked", 0, "bytes"),
            ("checked", 0, "crc32c"),
            ("columns", 8, "shape", 0),
            (*C, "n_images"),
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
        f"{'-'.join(map(str, path))}-{i}": at(path, name)
        for path in ((*P, "name"), ("checked", 0, "name"), (*C, "report"))
        for i, name in enumerate(["../x", "/etc/passwd", "s3://b/x", "a//b", "", "a\\b", "a\n"])
    },
    "name-surrogate": at([*P, "name"], "\ud800"),
    "uid-short": at(["uid"], "00"),
    "uid-newline": at(["uid"], "0" * 32 + "\n"),
    "part-uid-not-hex": at([*P, "uid"], "zz" * 16),
    "conversion-id-upper": at([*C, "id"], "AB" * 16),
    "directory-one-number": at([*P, "directory"], [100]),
    "directory-over-part": at([*P, "directory"], [10**6, 0]),
    "more-records-than-images": part_of(n_records=6),
    "repeated-part": repeated_part,
    "images-do-not-add-up": at(["n_images"], 6),
    "records-do-not-add-up": at(["n_records"], 3),
    "three-groups": at(["groups"], list("abc")),
    "equal-groups": at(["groups"], ["a", "a"]),
    **{
        f"group-{label!r}": at(["groups"], [label, "b"])
        for label in ("A", "a_b", "a b", "\u00e9", "a\n", "-\n")
    },
    "format": at(["format"], "other"),
    "totals-of-one-group": at(["bytes", "groups"], [1]),
    **{f"{name}-of-one-group": at(["quality", 0, name], [1.0]) for name in ("mean", "low", "high")},
    "percentile-of-one-group": at(["quality", 0, "percentiles", "5"], [1.0]),
    "percentile-of-text": at(["quality", 0, "percentiles", "5"], ["1.0", "1.0"]),
    "metric-twice": lambda m: m["quality"].append(m["quality"][0]),
    "split-twice": at(["splits"], ["train", "train"]),
    "checked-twice": lambda m: m["checked"].append(m["checked"][0]),
    "report-that-is-not-checked": at([*C, "report"], "reports/y.json"),
    "null-behind-a-number": shape(4, None),
    "null-twice": shape(None, None),
    "column-twice": lambda m: m["columns"].append(m["columns"][0]),
    **{f"no-column-{i}": lambda m, i=i: m["columns"].pop(i) and None for i in range(9)},
    "label-of-text": at(["columns", 1, "dtype"], "utf8"),
    "label-of-one": at(["columns", 1, "shape"], [1]),
    "sha256-of-any": at(["columns", 8, "shape"], [None]),
    "option-not-text": at([*C, "options"], {"a": 1}),
    "features-not-a-list": at(["features"], "shiny"),
    "features-too-many": at(["features"], ["a"] * 65),
    "classes-of-numbers": at(["classes"], [1]),
    "script-a-string": at(["script"], "x"),
    "layout-a-number": at(["layout"], 1),
}


def refused(data):
    """It is refused without a large allocation."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="here"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE)
def test_forged_manifests_are_refused(edit):
    m = copy.deepcopy(body())
    edit(m)
    refused(enveloped(json.dumps(m).encode()))


BAD_TEXT = {
    "nan": RECORD.partition(b"\n")[2].replace(b"0.9", b"NaN"),
    "infinite": RECORD.partition(b"\n")[2].replace(b"0.9", b"1e999"),
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep-behind-a-wrong-value": b'{"format":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits-behind-a-wrong-value": b'{"format":1,"a":' + b"9" * 5000 + b"}",
    "rubbish-behind-a-wrong-value": b'{"format":1,x',
    "many-images": json.dumps({**body(), "n_images": 2**53 - 1}).encode(),
    "empty": b"",
    "not-an-object": b"[]",
    "utf-16": RECORD.partition(b"\n")[2].decode().encode("utf-16"),
    "latin-1": RECORD.partition(b"\n")[2].decode().encode("latin-1"),
}


def filled(name, item):
    """A manifest of 15 MB, most of which is one list."""
    items = b"[%s]" % b",".join([item] * (15_000_000 // (len(item) + 1)))
    return compact({**body(), name: "?"}).replace(b'"?"', items)


FULL = {  # what takes the most memory for its length
    "empty-classes": filled("classes", b'""'),
    "classes": compact({**body(), "classes": [f"{i:012}" for i in range(1_000_000)], "version": 2}),
    "splits": filled("splits", b'""'),
    "letters": filled("classes", b'"a"'),
    "numbers": filled("groups", b"0.5"),
    "unknown-numbers": filled("later", b"1"),
    "options": filled("conversions", b"?").replace(
        b"?", b'{"options":{%s}}' % b",".join(b'"%x":"\\u732b"' % i for i in range(800_000)), 1
    )[: MAX_MANIFEST - 1],
    "parts": filled("parts", b"{}"),
    "long-text": filled("format", b'"%s"' % (b"x" * 14_999_000)),
    "long-number": compact({**body(), "version": "?"}).replace(b'"?"', b"9" * 15_000_000),
}


@pytest.mark.parametrize("text", FULL.values(), ids=FULL)
def test_sixteen_megabytes_of_anything_take_four_times_that_and_64_mib(text):
    assert MAX_MANIFEST * 3 // 4 < len(text) < MAX_MANIFEST
    refused(enveloped(text))


def edited(edit):
    m = copy.deepcopy(body())
    edit(m)
    return compact(m)


ACCEPTED = {
    "parts": edited(parts_of_one_image(99_000)),
    "conversions": edited(conversions(99_000)),
    "classes": edited(at(["classes"], [f"{i:012}" for i in range(1_000_000)])),
    "unknown": filled("later", b'"%s"' % (b"x" * 50)),
    "unknown-objects": filled("later", b'{"a":"%s"}' % (b"x" * 80)),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_a_full_manifest_takes_four_times_its_length_and_64_mib(text):
    data = enveloped(text)
    tracemalloc.start()
    try:
        decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT)
def test_hostile_json_is_refused(text):
    refused(enveloped(text))


def test_a_manifest_has_a_largest_size():
    n = len(RECORD)
    with pytest.raises(FormatError, match=f"at most {n - 1} bytes, got {n}"):
        decode_manifest(RECORD, version=1, where="here", max_bytes=n - 1)
    assert decode_manifest(RECORD, version=1, where="here", max_bytes=n) == manifest()


def test_the_greatest_version_is_that_of_its_name():
    assert decode(encode_manifest(manifest(version=MAX_VERSION)), MAX_VERSION).version == 2**32 - 2
    with pytest.raises(FormatError, match="manifest to be written"):
        encode_manifest(manifest(version=MAX_VERSION + 1))


def test_the_longest_hint_is_shorter_than_its_bound():
    assert len(encode_latest(MAX_VERSION)) <= MAX_LATEST == 64


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


UNREADABLE = {
    "256-splits": {"splits": ("s",) * 256},
    "long-class-name": {"classes": ("c" * 4097,)},
    "images-of-no-part": {"n_images": 9},
    "two-equal-parts": {"parts": manifest().parts * 2, "n_images": 10, "n_records": 4},
    "not-the-columns": {"columns": ()},
    "nan": {"quality": (measurement(scores=(math.nan, 1.0)),)},
    "infinite": {"quality": (measurement(scores=(math.inf, 1.0)),)},
    "feature": {"features": ("shiny",)},
    "version-0": {"version": 0},
    "part-without-images": {"parts": (replace(manifest().parts[0], n_images=0),), "n_images": 0},
}


@pytest.mark.parametrize("changes", UNREADABLE.values(), ids=UNREADABLE)
def test_what_no_reader_would_take_is_never_written(changes):
    with pytest.raises(FormatError, match="manifest to be written"):
        encode_manifest(manifest(**changes))


def test_a_manifest_too_long_to_read_is_never_written():
    names = tuple(f"{i:04000}" for i in range(4200))
    with pytest.raises(FormatError, match="at most 16777216 bytes"):
        encode_manifest(manifest(classes=names))
