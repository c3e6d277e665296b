"""Each rule of FORMAT.md, bent with all checksums right: verify names it, a reader is not misled.

A row is a bent dataset, in one layout or both; the object that verify names, by a regular
expression, and what it says of it, or None where nothing is wrong; and what becomes of a reader
that reads all of it in several ways: `reads` where it gets all images and columns as if nothing was
bent, `other` where it gets what the dataset says instead, or the first error. No row ends in an
error that is not ours, in the library or on the command line.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bends import (
    array,
    blob,
    block,
    cell,
    cells,
    column,
    directory,
    draft,
    dropped,
    flipped,
    grown_run,
    header_edited,
    image,
    inserted,
    lacking,
    lost,
    manifest,
    measured,
    moved_bytes,
    nested,
    other_run,
    other_runs,
    other_uid,
    overlapping,
    permuted_runs,
    put,
    repeated_run,
    replaced,
    root,
    sequential,
    setting,
    side,
    stored,
    swapped_arrays,
    tail,
    two_parts,
    unchecked,
)
from bent_datasets import ENCODED, OPAQUE, Bent, sources
from click.testing import CliRunner
from damages import reading
from flows import DictStore, dataset, write_tree

from pcrstore.cli import main
from pcrstore.errors import PcrstoreError
from pcrstore.maintenance.verifier import verify

BOTH = ("record", "zarr")
RECORD, ZARR = ("record",), ("zarr",)
READS = "reads"
MANIFEST, PART, OBJECT, GROUP = r"manifests/.*", r"index/.*", r"objects/.*", r"zarr/[0-9a-f]+"
RUN = rf"{OBJECT}|{GROUP}/group_\d"
RECORDS_OF = rf"{OBJECT}|{GROUP}"
"""Where an image that is wrong lies."""


@dataclass(frozen=True)
class Row:
    layouts: tuple[str, ...]
    bend: object
    """Makes the dataset, given the layout."""
    where: str | None
    says: str
    reader: str


TWO_GROUPS = "[a]\n*: 0-0, 0, 0\n[b]\n*: 1-63, 0, 0\n"

TABLE = {
    (BOTH, None, READS): {
        "whole": (Bent.of, ""),
        "write-feature": (manifest(setting("write_features", to=["later"])), ""),
        "field-of-later": (manifest(setting("later", to={"a": [1]})), ""),
        "two-parts": (two_parts(), ""),
        "runs-permuted": (draft(permuted_runs), ""),
        "block-of-later": (
            directory(
                lambda d: d["blocks"].append({**d["blocks"][1], "kind": "later", "pages": []})
            ),
            "",
        ),
    },
    (BOTH, MANIFEST, "UnsupportedFormatError"): {
        "feature": (manifest(setting("features", to=["later"])), "needs later.*upgrade"),
        "layout": (manifest(setting("layout", to="cubes")), "layout 'cubes'.*upgrade"),
    },
    (RECORD, PART, "FormatError"): {
        "other-layout": (manifest(setting("layout", to="zarr")), "arrays with a chunk size"),
    },
    (BOTH, MANIFEST, "FormatError"): {
        "version": (manifest(setting("version", to=2)), "version must be 1, as its name"),
        "groups-repeat": (
            manifest(lambda m: m["groups"].__setitem__(1, m["groups"][0])),
            "groups must be",
        ),
        "splits-repeat": (manifest(setting("splits", to=["a", "a"])), "splits"),
        "n-images": (manifest(setting("n_images", to=7)), "n_images must be 6"),
        "no-report": (
            manifest(setting("conversions", 0, "report", to="reports/x.json")),
            "one of the checked objects",
        ),
    },
    (BOTH, MANIFEST, READS): {
        "name-twice": (
            manifest(replaced('"version"', '"later": 1, "later": 2, "version"')),
            "'later' occurs twice",
        ),
        "nested-too-deep": (manifest(nested), "nest at most 64"),
        "script-garbage": (
            manifest(setting("script", "text", to="scan it all")),
            "script must be a legal one",
        ),
        "script-labels": (
            manifest(setting("script", "text", to=lambda t: t.replace("[", "[x", 1))),
            "groups must be the script's",
        ),
        "script-groups": (
            manifest(setting("script", "text", to=TWO_GROUPS)),
            "groups must be the script's",
        ),
        "classes-repeat": (
            manifest(setting("classes", to=["cat", "cat"])),
            "classes must be distinct",
        ),
        "sources": (
            manifest(setting("bytes", "sources", to=lambda n: n + 1)),
            "bytes.sources must be",
        ),
        "groups-total": (
            manifest(setting("bytes", "groups", 2, to=lambda n: n + 1)),
            "bytes.groups must be",
        ),
        "headers-total": (
            manifest(setting("bytes", "headers", to=lambda n: n + 1)),
            "bytes.headers must be",
        ),
        "restore-total": (
            manifest(setting("bytes", "restore", to=lambda n: n + 1)),
            "bytes.restore must be",
        ),
        "percentile-name": (
            manifest(setting("quality", to=[measured("m", "most")])),
            "percentiles of m must be numbers",
        ),
        "ordinal-twice": (
            lambda layout: Bent.of(layout, ordinals=(0, 1, 1)),
            "two records have uid .* and ordinal 1",
        ),
    },
    (BOTH, PART, "FormatError"): {
        "part-images": (
            manifest(lambda m: (m.update(n_images=7), m["parts"][0].update(n_images=7))),
            "n_images must be 7",
        ),
        "part-uid": (manifest(setting("parts", 0, "uid", to="f" * 32)), "uid must be"),
        "outside": (
            draft(lambda d: d.parts[0].rows.records["start"].__setitem__(2, 2**40)),
            "record 2 must lie inside",
        ),
        "no-such-run": (
            draft(lambda d: d.parts[0].rows.records["object"].__setitem__(2, 99)),
            "record 2 must lie inside",
        ),
        "empty-record": (
            draft(lambda d: d.parts[0].rows.records["n_images"].__setitem__(2, 0)),
            "must hold 6 images",
        ),
        "directory-groups": (directory(setting("n_groups", to=4)), "n_groups must be 5"),
        "bytes-behind-blocks": (
            directory(lambda _: None, lambda pages: pages + b"x"),
            "blocks that end at byte",
        ),
        "block-twice": (
            directory(lambda d: d["blocks"].append({**d["blocks"][1], "pages": [[0, 0, 0]]})),
            "block key",
        ),
        "no-block": (
            directory(lambda d: d["blocks"][2].update(name="lable")),
            "blocks must be all of",
        ),
        "nulls": (directory(block("label", nulls=True)), "column without nulls"),
        "dtype": (directory(block("label", dtype="<u4")), "of type <i4"),
        "header-bits": (
            header_edited(0, put(12, lambda b: b | 4)),
            "zeros behind the bits of its images",
        ),
        "header-lengths": (
            header_edited(0, put(13, lambda b: b ^ 1)),
            "lengths of cells and blobs of record 0 do not add up",
        ),
        "restore-lengths": (
            draft(lambda d: d.parts[0].rows.restore["length"].__setitem__(0, 1)),
            "lengths of cells and blobs of record 0 do not add up",
        ),
        "label-over": (image(0, label=2), r"label of row 0 must be -1\.\.1, got 2"),
        "label-under": (image(3, label=-2), "label of row 3 must be"),
        "split": (image(1, split=2), "split of row 1 must be"),
        "split-254": (image(1, split=254), "split of row 1 must be"),
        "orientation-0": (image(1, orientation=0), "orientation of row 1 must be"),
        "orientation-9": (image(1, orientation=9), "orientation of row 1 must be"),
        "width-over": (image(1, width=65_536), "width of row 1 must be"),
        "empty-key": (image(1, key=""), "key of row 1 must have 1 to 1024 bytes"),
        "long-key": (image(1, key="k" * 1025), "key of row 1 must have 1 to 1024 bytes"),
        "boolean": (
            column("flag", "|u1", np.array([0, 1, 2, 0, 1, 1], "|u1"), becomes="|b1"),
            "booleans must be 0 or 1",
        ),
        "utf8": (
            column("note", "bytes", [b"a", b"\xff", b"", b"", b"", b""], becomes="utf8"),
            "must be Unicode text",
        ),
        "opaque-in-format": (
            cells(lambda images: setattr(images[OPAQUE], "opaque", False)),
            "image 2 of the part must be opaque in both",
        ),
        "empty-cell": (cell(0, 3, lambda _: b""), "image 0 of the part must have no empty cell"),
    },
    (BOTH, MANIFEST, "other"): {
        "quality-column": (
            column("quality.ms_ssim", "<f8", np.ones((6, 5)), (5,)),
            r"column quality.ms_ssim must be of <f4 \[5\]",
        ),
    },
    (BOTH, RUN, "other"): {
        "first-record": (dropped(1, 2, unused=False), "bytes of no record must be 0, got"),
        "middle-record": (dropped(0, 2, unused=False), "bytes of no record must be 0, got"),
        "last-record": (dropped(0, 1, unused=False), "bytes of no record must be 0, got"),
        "unused-wrong": (dropped(2, 0, more=1), r"bytes of no record must be \d+, got"),
    },
    (BOTH, None, "other"): {
        "unused": (dropped(2, 0), ""),
        "no-label": (image(3, label=-1), ""),
        "one-key-twice": (image(1, key="cat/0.jpg"), ""),
        "absent": (lacking("more", "<f4"), ""),
        "json-right": (column("meta", "json", ["{}", "9" * 5000, None, '"a"', "1e999", "[]"]), ""),
    },
    (RECORD, OBJECT, READS): {
        "before-the-first": (inserted(0), r"must be 0, got 7, the first 0\.\.7"),
        "between": (inserted(1), "must be 0, got 7, the first"),
        "after-the-last": (inserted(3), "must be 0, got 7, the first"),
    },
    (BOTH, RUN, "ChecksumError"): {
        "overlapping": (draft(overlapping), "belongs to two records"),
    },
    (BOTH, PART, READS): {
        "run-length": (two_parts(grown_run), "says of .* what others deny"),
        "run-twice": (draft(repeated_run), "must name each run once"),
        "directory-name-twice": (
            directory(replaced('"uid": "', '"later": 1, "later": 2, "uid": "')),
            "'later' occurs twice",
        ),
        "opaque-cell": (
            cell(OPAQUE, 1, lambda _: b"more"),
            "image 2 of the part is opaque: cells 2",
        ),
        "opaque-blob": (
            blob(OPAQUE, lambda _: b"more"),
            "image 2 of the part is opaque: its restore",
        ),
    },
    (ZARR, PART, "StoreError"): {
        "run-chunk": (two_parts(other_run(chunk=701)), "says of .* what others deny"),
    },
    (BOTH, PART, "ChecksumError"): {
        "run-uid": (two_parts(other_run(uid="e" * 32)), "checksum"),
        "page-checksum": (
            directory(lambda d: d["blocks"][2]["pages"][0].__setitem__(2, 5)),
            "label rows .* fail their checksum",
        ),
    },
    (BOTH, PART, "UnsupportedFormatError"): {
        "codec": (directory(block("label", codec="zstd")), "codec 'zstd'.*upgrade"),
        "header-flags": (header_edited(0, put(11, 1)), "upgrade"),
        "codec-of-later": (
            column("later", "<f4", np.ones(6, "<f4"), codec="zstd"),
            "values of later are stored with codec 'zstd'.*upgrade",
        ),
        "format": (image(1, format=3), "image format 3.*upgrade"),
        "type-of-later": (
            column("later", "<f4", np.ones(6, "<f4"), becomes="<f3"),
            "type '<f3'.*upgrade",
        ),
        "type-of-later-absent": (lacking("later", "<f3"), "type '<f3'.*upgrade"),
    },
    (RECORD, OBJECT, "ChecksumError"): {
        "header-copy": (
            header_edited(0, put(-1, lambda b: b ^ 1)),
            "header of record 0 of index/.* differs",
        ),
    },
    (BOTH, RECORDS_OF, "other"): {
        "width": (image(1, width=25), r"image 1 of .* must have 25 x \d+ pixels"),
        "eoi-at-the-end": (cell(0, 4, lambda c: c + b"\xff\xd9"), "image 0 .* no EOI in its cells"),
    },
    (BOTH, PART, "other"): {
        "width-0": (image(1, width=0), "image 1 of the part must have a width of 0"),
        "height-0": (image(1, height=0), "image 1 of the part must have a height of 0"),
        "width-of-opaque": (image(OPAQUE, width=8), "image 2 of the part must have a width of 0"),
        "height-of-opaque": (
            image(OPAQUE, height=8),
            "image 2 of the part must have a height of 0",
        ),
        "json": (
            column("meta", "json", ["{}", "1", None, '"a"', "{", "[]"]),
            "meta of image 4 of the part must be JSON",
        ),
        "json-nan": (
            column("meta", "json", [["{}"], [], None, ["1", "NaN"], [], []], (None,)),
            "meta of image 3 of the part must be JSON",
        ),
        "opaque-in-header": (
            cells(lambda images: setattr(images[1], "opaque", True)),
            "image 1 of the part must be opaque in both",
        ),
        "opaque-bytes": (
            image(OPAQUE, source_bytes=9),
            "image 2 of the part is opaque: source_bytes",
        ),
    },
    (BOTH, RECORDS_OF, "FormatError"): {
        "no-jpeg": (
            cell(0, 0, lambda _: b"no JPEG"),
            "image 0 of index/.* must be a progressive JPEG",
        ),
        "sequential": (cells(sequential), "image 0 .* got a sequential one"),
        "blob-short": (blob(0, lambda b: b[:3]), "image 0 .* must have a restore blob"),
    },
    (BOTH, RECORDS_OF, READS): {
        "cut-in-a-scan": (cells(moved_bytes), "image 0 .* must have cells that end where scans do"),
    },
    (BOTH, RECORDS_OF, "ChecksumError"): {
        "eoi": (cell(0, 1, lambda c: c + b"\xff\xd9"), "image 0 .* no EOI in its cells"),
        "blob-cut": (blob(ENCODED, lambda b: b[:-3]), "image 5 .* must have a restore blob"),
    },
    (BOTH, RECORDS_OF, "UnsupportedFormatError"): {
        "blob-kind": (
            blob(0, lambda b: bytes([b[0] & 0xF0 | 9]) + b[1:]),
            "image 0 .* must have a restore blob.*upgrade",
        ),
        "blob-flag": (
            blob(0, lambda b: bytes([b[0] | 0x40]) + b[1:]),
            "image 0 .* must have a restore blob.*upgrade",
        ),
    },
    (RECORD, OBJECT, "FormatError"): {
        "no-object": (lost("^objects/"), "is missing"),
    },
    (ZARR, rf"{GROUP}/group_1/zarr.json", READS): {
        "chunk-shape": (
            array("group_1", setting("chunk_grid", "configuration", "chunk_shape", to=[999])),
            "chunk_grid must be",
        ),
        "codecs": (
            array("group_1", setting("codecs", to=[{"name": "gzip"}])),
            "codecs must be bytes",
        ),
        "fill-value": (array("group_1", setting("fill_value", to=1)), "fill_value must be 0"),
        "array-not-json": (side("group_1/zarr.json", lambda _: b"\xff"), "must be JSON"),
        "array-no-object": (side("group_1/zarr.json", lambda _: b"[]"), "must be a JSON object"),
        "array-json-lost": (lost("group_1/zarr.json"), "is missing"),
        "array-json-unchecked": (unchecked("group_1/zarr.json"), "must be checked by the manifest"),
    },
    (ZARR, rf"{GROUP}/group_2/zarr.json", READS): {
        "shape": (array("group_2", setting("shape", 0, to=lambda n: n + 1)), "shape must be"),
    },
    (ZARR, rf"{GROUP}/restore/zarr.json", READS): {
        "data-type": (array("restore", setting("data_type", to="int8")), "data_type must be uint8"),
    },
    (ZARR, rf"{GROUP}/labels/zarr.json", READS): {
        "dimensions": (
            array("labels", setting("dimension_names", to=["x"])),
            "dimension_names must be",
        ),
        "endian": (
            array("labels", setting("codecs", 0, "configuration", "endian", to="big")),
            "codecs must be bytes",
        ),
    },
    (ZARR, PART, READS): {
        "side-chunks": (
            array("labels", setting("chunk_grid", "configuration", "chunk_shape", to=[1])),
            "labels/c/1 must be checked|labels/c/0: must have 1 rows",
        ),
        "array-uid": (draft(other_uid), "must lie in the arrays of one group"),
    },
    (ZARR, rf"{GROUP}/opaque/zarr.json", READS): {
        "side-length": (array("opaque", setting("shape", 0, to=5)), "must be of 6 images"),
        "side-huge": (array("opaque", setting("shape", 0, to=2**62)), "must be of 6 images"),
        "no-shape": (array("opaque", setting("shape", to={"a": 1})), "shape and the chunks"),
    },
    (ZARR, GROUP + "|" + PART, READS): {
        "side-unchecked": (unchecked("labels/c/0"), "labels/c/0 must be checked by the manifest"),
        "side-chunk-short": (
            side("labels/c/0", lambda data: data[:-3]),
            "labels/c/0.* must have 6 rows",
        ),
    },
    (ZARR, rf"{GROUP}/zarr.json", READS): {
        "consolidated": (
            side(
                "zarr.json",
                setting("consolidated_metadata", "metadata", "labels", "fill_value", to=7),
            ),
            "consolidated",
        ),
        "group-conversion": (
            side("zarr.json", setting("attributes", "pcrstore", "conversion", to="x")),
            "attribute pcrstore must be",
        ),
        "group-groups": (
            side("zarr.json", setting("attributes", "pcrstore", "groups", 0, to="x")),
            "attribute pcrstore must be",
        ),
        "group-classes": (
            side("zarr.json", setting("attributes", "classes", to=None)),
            "attribute classes must be",
        ),
        "group-node": (
            side("zarr.json", setting("node_type", to="array")),
            "must be a Zarr v3 group",
        ),
    },
    (ZARR, rf"{GROUP}/labels", READS): {
        "group-other-classes": (
            side("zarr.json", setting("attributes", "classes", to=["dog", "cat"])),
            "must say of record 0",
        ),
        "labels": (side("labels/c/0", flipped(40)), "must say of record 2"),
        "labels-huge": (side("labels/c/0", flipped(46)), "must say of record 2"),
    },
    (ZARR, "zarr.json", READS): {
        "root": (root("zarr.json", b"{}"), "must be {"),
        "root-lost": (root("zarr.json", None), "must be {"),
        "root-unchecked": (unchecked("zarr.json"), "must be {"),
    },
    (ZARR, "zarr/zarr.json", READS): {
        "groups-parent": (root("zarr/zarr.json", b"{}"), "must be {"),
        "groups-parent-lost": (root("zarr/zarr.json", None), "must be {"),
    },
    (ZARR, rf"{GROUP}/record_first_image", READS): {
        "first-image": (side("record_first_image/c/0", flipped(8)), "must"),
        "first-image-0": (side("record_first_image/c/0", flipped(0)), "must rise from 0"),
        "first-image-high": (side("record_first_image/c/0", flipped(15)), "must"),
    },
    (ZARR, rf"{GROUP}/image_offsets", READS): {
        "offsets": (side("image_offsets/c/0/0", flipped(48)), "must say of record 0"),
        "offsets-falling": (side("image_offsets/c/0/0", flipped(103)), "must rise"),
    },
    (ZARR, rf"{GROUP}/(image_offsets|record_first_image)", READS): {
        "offsets-of-records": (side("image_offsets/c/0/0", flipped(96)), "must"),
    },
    (ZARR, rf"{GROUP}/image_checksums", READS): {
        "checksums": (side("image_checksums/c/0/0", flipped(21)), "must say of record 0"),
    },
    (ZARR, rf"{GROUP}/opaque", READS): {
        "opaque": (side("opaque/c/0", flipped(3)), "must say of record 1"),
    },
    (ZARR, rf"{GROUP}/key_bytes", READS): {
        "keys": (side("key_bytes/c/0", flipped(0)), "must say of record 0"),
        "key-offsets": (side("key_offsets/c/0", flipped(8)), "must say of record 0"),
        "key-offsets-high": (side("key_offsets/c/0", flipped(15)), "must say of record 0"),
    },
    (ZARR, rf"{GROUP}/group_2/c/0", "FormatError"): {
        "chunk-lost": (lost("group_2/c/0$"), "is missing"),
    },
    (ZARR, rf"{GROUP}/group_2/c/0", "StoreError"): {
        "chunk-short": (
            stored("group_2/c/0$", lambda data: data[:-1]),
            "must have 700 bytes, got 699",
        ),
    },
    (ZARR, rf"{GROUP}/group_1/c/\d", READS): {
        "chunk-tail": (tail, "must be zero"),
    },
    (ZARR, rf"{GROUP}/group_1.*|{PART}", "FormatError"): {
        "chunk-of-a-byte": (
            draft(other_runs(chunk=1)),
            "chunks; .* objects exist|is missing",
        ),
    },
    (BOTH, RUN, READS): {
        "huge-run": (
            draft(other_runs(n_bytes=2**52)),
            "chunks; .* objects exist|must have 4503599627370496 bytes",
        ),
    },
    (ZARR, PART, "ChecksumError"): {
        "arrays-swapped": (draft(swapped_arrays), "must lie in the arrays of one group"),
    },
}
"""(layouts, object, reader) -> name of what is bent -> the bend, and what verify says."""

ROWS = {
    name: Row(layouts, bend, where, says, reader)
    for (layouts, where, reader), rows in TABLE.items()
    for name, (bend, says) in rows.items()
}


def cases():
    return [(name, layout) for name, row in ROWS.items() for layout in row.layouts]


CASES = pytest.mark.parametrize(
    ("name", "layout"), cases(), ids=[f"{name}-{layout}" for name, layout in cases()]
)


@pytest.fixture(scope="module")
def right():
    return {layout: reading(Bent.of(layout).objects) for layout in BOTH}


def outcome(objects, right):
    try:
        return READS if reading(objects) == right else "other"
    except PcrstoreError as e:
        return type(e).__name__


@CASES
def test_verify_names_what_is_bent(name, layout):
    row = ROWS[name]
    faults = verify(DictStore(row.bend(layout).objects)).faults
    if row.where is None:
        assert faults == ()
        return
    named = [f for f in faults if re.fullmatch(row.where, f.name)]
    assert any(re.search(row.says, f.message) for f in named), faults


@pytest.mark.parametrize("layout", BOTH)
@pytest.mark.parametrize("name", ["codec-of-later", "type-of-later", "type-of-later-absent"])
def test_a_column_of_a_later_version_keeps_verify_from_nothing_else(name, layout):
    report = verify(DictStore(ROWS[name].bend(layout).objects))
    assert len(report.faults) == 1
    assert report.n_images == 6


@CASES
def test_a_reader_is_not_misled(name, layout, right):
    row = ROWS[name]
    got = outcome(row.bend(layout).objects, right[layout])
    assert got == row.reader


COMMANDS = {
    "verify": ("verify",),
    "verify-json": ("verify", "--json"),
    "ls": ("ls",),
    "info": ("info",),
    "info-json": ("info", "--json"),
    "export": ("export", "--fidelity", "original"),
    "export-1": ("export", "--fidelity", "1"),
}


@CASES
def test_no_command_takes_what_is_bent_for_a_bug(name, layout, tmp_path):
    row = ROWS[name]
    root = write_tree(tmp_path / "ds", row.bend(layout).objects)
    for command, (verb, *options) in COMMANDS.items():
        target = [tmp_path / command] if verb == "export" else []
        words = [verb, root, *target, *options]
        result = CliRunner().invoke(main, [str(w) for w in words])
        # Of an object that is short, the store says that a reply may have been.
        allowed = (0, 1, 3) if row.reader == "StoreError" else (0, 1)
        assert result.exit_code in allowed, (command, result.output, result.stderr)
        if verb == "verify":
            assert result.exit_code == (row.where is not None), (command, result.output)
    assert {p.name for p in Path(tmp_path).iterdir()} <= {"ds", *COMMANDS}


def test_the_sources_are_of_every_kind():
    ds = dataset(DictStore(Bent.of("record").objects))
    assert [s.format for s in ds] == ["jpeg", "jpeg", "opaque", "jpeg", "jpeg", "encoded"]
    assert ds.fetch(range(6), "original") == [*sources().values()]
