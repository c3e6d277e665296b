"""A dataset whose index lies, with every checksum right, gives typed errors and small allocations.

What a hostile or broken writer could publish: the manifest's and the parts' own checksums fit.
"""

import dataclasses
import re
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import has_transcoder
from msgspec.structs import replace

import pcrstore
from pcrstore.dataset.versions import read_manifest
from pcrstore.errors import PcrstoreError
from pcrstore.exports.folder import export
from pcrstore.format.columns import COLUMNS, Column
from pcrstore.format.index_pages import decode_directory
from pcrstore.format.index_rows import decode_part
from pcrstore.format.manifest import encode_manifest
from pcrstore.format.names import manifest_name
from pcrstore.maintenance.verifier import verify
from pcrstore.storage.open import open_store

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAYOUTS = ["record", "zarr"]


def forge(tmp_path, layout, edit=lambda _: None, columns=COLUMNS, **changes):
    """Copy a fixture, edit the rows of its part and its manifest, and put every checksum right."""
    root = tmp_path / "ds"
    shutil.copytree(FIXTURES / f"v1-{layout}", root)
    store = open_store(str(root))
    m = read_manifest(store, 1)
    (entry,) = m.parts
    data = store.get(entry.name, max_bytes=entry.n_bytes)
    directory = decode_directory(
        data[: entry.head.n_bytes], entry, layout=layout, n_groups=m.n_groups, columns=COLUMNS
    )
    some = decode_part(data, directory, COLUMNS)
    some = dataclasses.replace(
        some,
        records=some.records.copy(),
        restore=some.restore.copy(),
        columns={
            k: v if isinstance(v, list) else np.array(v, copy=True) for k, v in some.columns.items()
        },
    )
    some = edit(some) or some
    entry, data = some.encode(
        name=entry.name,
        uid=entry.uid,
        n_groups=m.n_groups,
        runs=directory.runs,
        columns=columns,
    )
    store.put(entry.name, data)
    forged = replace(
        m,
        parts=(entry,),
        n_images=entry.n_images,
        n_records=entry.n_records,
        columns=columns,
        **changes,
    )
    store.put(manifest_name(1), encode_manifest(forged))
    return str(root)


def reads(url, decodable):
    """Every way to read a dataset, each by itself."""
    ds = pcrstore.open(url)
    everything = range(len(ds))
    yield "iter", lambda: list(ds.iter(fidelity=2))
    yield "fetch", lambda: ds.fetch(everything, fidelity=1)
    yield "fetch-some", lambda: ds.fetch([0, len(ds) - 1])
    yield "plan", lambda: ds.plan(everything).n_bytes
    yield "read", lambda: ds.read(decodable, fidelity=1, apply_orientation=True)
    yield "columns", lambda: [ds.column(c.name) for c in ds.manifest.columns]
    yield "keys", lambda: (ds.keys, ds.labels)
    if has_transcoder():
        yield "original", lambda: ds.fetch(everything, fidelity="original")


def only_typed_errors(url):
    """Run every read; return the errors. Each is typed, comes soon and costs little memory."""
    caught = []
    whole = pcrstore.open(str(FIXTURES / "v1-record"))  # both have the same images in one order
    decodable = [i for i, form in enumerate(whole.column("format")) if form == 0]
    for name, read in reads(url, decodable):
        tracemalloc.start()
        started = time.monotonic()
        try:
            read()
        except PcrstoreError as e:
            caught.append((name, e))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert time.monotonic() - started < 2, name
        assert peak < 2**26, name
    return caught


def record(field, value, at=0):
    def edit(some):
        some.records[field][at] = value

    return edit


def column(name, value, at=0):
    def edit(some):
        some.columns[name][at] = value

    return edit


def restore(field, value, at=0):
    def edit(some):
        some.restore[field][at] = value

    return edit


def header(damage):
    def edit(some):
        return dataclasses.replace(some, headers=[damage(some.headers[0]), *some.headers[1:]])

    return edit


LIES = {
    "object-far": record("object", 2**32 - 1),
    "object-other": record("object", 1),
    "ordinal": record("ordinal", 99),
    "images-more": record("n_images", 60_000),
    "images-none": record("n_images", 0),
    "start-far": record("start", 2**64 - 1),
    "start-2-gib": record("start", 2**31),
    "start-off-by-one": record("start", 1),
    "length-4-gib": record("length", 2**32 - 1),
    "length-of-one-region": lambda some: some.records["length"].__setitem__((0, 0), 2**30),
    "length-zero": record("length", 0),
    "swapped-records": lambda some: some.records.__setitem__(
        slice(0, 2), some.records[1::-1].copy()
    ),
    "swapped-headers": lambda some: dataclasses.replace(some, headers=some.headers[::-1]),
    "header-of-zeros": header(lambda h: bytes(len(h))),
    "header-of-ones": header(lambda h: b"\xff" * len(h)),
    "header-flipped": header(lambda h: h[:-1] + bytes([h[-1] ^ 1])),
    "restore-length": restore("length", 2**32 - 1),
    "restore-checksum": restore("checksum", 0),
    "restore-swapped": lambda some: some.restore.__setitem__(
        slice(0, 2), some.restore[1::-1].copy()
    ),
}
# Each says of an image what its page of FORMAT.md forbids.
OUT_OF_RANGE = {
    "label": column("label", 2**31 - 1),
    "label-of-no-class": column("label", 2),
    "label-minus": column("label", -(2**31)),
    "split": column("split", 77),
    "format": column("format", 9),
    "orientation": column("orientation", 200),
    "orientation-none": column("orientation", 0),
    "width": column("width", 2**32 - 1),
    "height": column("height", 65_536),
    "key-empty": column("key", ""),
    "key-long": column("key", "k" * 1025),
    "key-of-16-mb": column("key", "k" * (2**24 - 1000)),
}
HARMLESS = {
    "label-none": column("label", -1),
    "split-none": column("split", 255),
    "source-bytes": column("source_bytes", 2**63),
    "sha256": column("source_sha256", 0),
    "key-climbs": column("key", "../../etc/passwd"),
    "key-twice": lambda some: some.columns["key"].__setitem__(0, some.columns["key"][1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("edit", LIES.values(), ids=LIES)
def test_an_index_that_lies_is_caught(tmp_path, layout, edit):
    url = forge(tmp_path, layout, edit)
    assert only_typed_errors(url)
    assert verify(url).faults


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_its_range_reaches_nobody(tmp_path, layout, name):
    """It is refused before a class, a file or a picture is looked up by it."""
    url = forge(tmp_path, layout, OUT_OF_RANGE[name])
    of = name.partition("-")[0]
    errors = dict(only_typed_errors(url))
    assert errors.keys() <= {"iter", "columns", "keys", "read", "original"}
    assert re.search(f"{of}.*of row 0|row 0 has image {of}", str(errors["columns"]))
    ds = pcrstore.open(url)
    others = [c.name for c in COLUMNS if c.name != of]
    assert all(len(ds.column(c)) == 10 for c in others)
    assert any(of in fault.message for fault in verify(url).faults)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_of_classes_that_are_not_there_reach_nobody(tmp_path, layout):
    url = forge(tmp_path, layout, classes=("cat",))
    errors = dict(only_typed_errors(url))
    assert errors.keys() == {"iter", "columns", "keys"}
    assert "label of row" in str(errors["columns"])
    assert verify(url).faults


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS)
def test_other_values_may_say_anything(tmp_path, layout, edit):
    """They are what a writer says of an image, and nothing here is sized or placed by them."""
    url = forge(tmp_path, layout, edit)
    assert {name for name, _ in only_typed_errors(url)} <= {"original"}
    report = export(pcrstore.open(url), str(tmp_path / "out"), fidelity=1)
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert report.n_files == len(files) == 10
    assert {p.name for p in tmp_path.iterdir()} == {"ds", "out"}


MIB = 2**20
LONG = {  # type, shape, the value of each of ten images, of a mebibyte or less
    "long-texts": ("utf8", (), "\u00e9" * (MIB // 2)),
    "many-texts": ("utf8", (None,), [""] * 2**17),
    "many-short-texts": ("bytes", (None,), [b"ab"] * 2**16),
    "many-numbers": ("|u1", (None, 4), np.zeros((2**18, 4), "|u1")),
    "wide-numbers": ("<f8", (65_536,), np.zeros(65_536)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "shape", "value"), LONG.values(), ids=LONG)
def test_long_columns_cost_in_proportion_and_only_those_who_read_them(
    tmp_path, layout, dtype, shape, value
):
    extra = Column(name="mine", dtype=dtype, shape=shape)

    def edit(some):
        values = np.array([value] * 10) if extra.is_array else [value] * 10
        return dataclasses.replace(some, columns={**some.columns, "mine": values})

    url = forge(tmp_path, layout, edit, columns=(*COLUMNS, extra))
    ds = pcrstore.open(url)
    tracemalloc.start()
    try:
        for c in COLUMNS:
            ds.column(c.name)
        ds.fetch(range(10), fidelity=1)
        assert tracemalloc.get_traced_memory()[1] < MIB
        assert len(ds.column("mine")) == 10
        assert tracemalloc.get_traced_memory()[1] < 14 * 10 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_forgery_that_changes_nothing_reads(tmp_path, layout):
    url = forge(tmp_path, layout)
    assert only_typed_errors(url) == []
    assert verify(url).faults == ()
