"""Parts end where a reader's bounds do; manifest and report say what was stored."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from flows import (
    CUT,
    HELD,
    RECORD,
    DictStore,
    Pictures,
    content,
    convert_to,
    dataset,
    originals,
    photo,
    photos,
    png,
)
from index_parts import column_values
from msgspec.structs import replace as changed

from pcrstore.conversion.journal import FinishedUnit, Outcomes
from pcrstore.conversion.manifest_builder import ManifestBuilder
from pcrstore.conversion.packing import pack
from pcrstore.conversion.report import Problem, Report, read_report
from pcrstore.core import crc32c
from pcrstore.dataset.versions import read_manifest
from pcrstore.errors import DatasetExistsError, OptionError
from pcrstore.format.index import RESTORE_DTYPE, Run, record_dtype
from pcrstore.format.index_pages import decode_directory
from pcrstore.format.index_rows import Rows, decode_part
from pcrstore.format.manifest import MAX_CHECKED, decode_manifest, encode_manifest
from pcrstore.format.names import manifest_name
from pcrstore.format.zarr_layout import ROOT_JSON
from pcrstore.jpeg.scan_script import parse_script
from pcrstore.maintenance.verifier import verify

SCRIPT = parse_script("[a]\n*: 0-0, 0, 0\n[b]\n*: 1-63, 0, 0\n", name="two")
G = SCRIPT.n_groups


@dataclass
class Writer:
    """A writer that gives runs of the zarr layout, and keeps what it is given."""

    arrays: tuple[Run, ...] = ()
    added: list[Rows] = field(default_factory=list)

    def runs(self):
        return self.arrays

    def add_rows(self, rows):
        self.added.append(rows)

    def finish(self):
        return iter(())


def unit(number, sizes, *, layout="record", key="k"):
    """A finished unit of records of `sizes` images with empty cells, and keys as long as `key`."""
    n = sum(sizes)
    table = np.zeros(len(sizes), record_dtype(layout, G))
    table["n_images"] = sizes
    headers = [bytes(12 + -(-size // 8) + 8 * size * G) for size in sizes]
    rows = Rows(
        records=table,
        headers=headers,
        restore=np.zeros(n, RESTORE_DTYPE),
        columns={**column_values(n), "key": [key] * n},
    )
    run = Run(
        name=f"objects/{number:032x}-000007-encode95.pcr", uid=f"{number:032x}", n_bytes=10**9
    )
    outcomes = Outcomes(problems=(), quality=(), restore_bytes={}, restore_images={})
    kept = run if layout == "record" else None
    return FinishedUnit(number=number, object=kept, rows=rows, outcomes=outcomes)


def built(units, *, layout="record", arrays=()):
    """The manifest of units; each part with its directory and rows."""
    store, writer = DictStore(), Writer(arrays)
    builder = ManifestBuilder(
        store=store,
        writer=writer,
        conversion="ab" * 16,
        script=SCRIPT,
        layout=layout,
        classes=("cat", "dog"),
        splits=("train",),
        options={},
        n_hidden=0,
        writer_id="w",
        created="2026-01-01T00:00:00Z",
    )
    for u in units:
        builder.add(u)
    m = builder.finish()
    encode_manifest(m)
    parts = []
    for entry in m.parts:
        data = store.objects[entry.name]
        head = data[: entry.head.n_bytes]
        d = decode_directory(head, entry, layout=layout, n_groups=G, columns=m.columns)
        parts.append((d, decode_part(data, d, m.columns)))
    assert sum(rows.n_images for _, rows in parts) == m.n_images
    assert [rows.n_images for rows in writer.added] == [p.n_images for p in m.parts]
    return m, parts


ARRAYS = tuple(
    Run(name=f"zarr/a/{name}", uid="cd" * 16, n_bytes=10**9, chunk=size)
    for name, size in (("group_1", 10), ("group_2", 20), ("restore", 30))
)

ENDS = {
    # id: (units of record sizes, key, images of each part)
    "images-at-bound": ([[256] * 256], "k", [65_536]),
    "images-over": ([[256] * 256, [1]], "k", [65_536, 1]),
    "images-within-a-unit": ([[256] * 200, [256] * 100], "k", [65_536, 11_264]),
    "keys-at-bound": ([[4096] * 4], "k" * 1020, [16_384]),
    "keys-over": ([[4096] * 4], "k" * 1021, [12_288, 4096]),
    "keys-of-units": ([[4096]] * 5, "k" * 1020, [16_384, 4096]),
    "one-record-alone": ([[16_384], [1]], "k" * 1020, [16_384, 1]),
}


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize(("sizes", "key", "images"), ENDS.values(), ids=ENDS)
def test_a_part_ends_before_a_record_that_would_overfill_it(sizes, key, images, layout):
    units = [unit(i, some, layout=layout, key=key) for i, some in enumerate(sizes)]
    m, parts = built(units, layout=layout, arrays=ARRAYS)
    assert [p.n_images for p in m.parts] == images
    for d, rows in parts:
        used = rows.records["object"]
        assert used.max() < len(d.runs)
        if layout == "zarr":
            assert d.runs == ARRAYS
            assert (used == np.arange(G + 1)).all()
        else:
            assert set(used.ravel().tolist()) == set(range(len(d.runs)))


def test_a_part_names_so_many_objects_that_its_directory_is_small():
    m, parts = built(unit(i, [1]) for i in range(32_769))
    assert [p.n_images for p in m.parts] == [32_768, 1]
    assert m.parts[0].head.n_bytes < 2**23
    assert [d.runs[0].name for d, _ in parts] == [
        f"objects/{i:032x}-000007-encode95.pcr" for i in (0, 32_768)
    ]


def test_arrays_are_counted_once_in_a_part():
    """However many units there are: a part of the zarr layout names G + 1 runs."""
    m, _ = built((unit(i, [1], layout="zarr") for i in range(12_000)), layout="zarr", arrays=ARRAYS)
    assert [p.n_images for p in m.parts] == [12_000]


def test_a_record_has_no_more_keys_than_a_part():
    units = pack(
        [1] * 40_000,
        keys=[1024] * 40_000,
        record_bytes=10**6,
        record_images=None,
        object_bytes=10**6,
    )
    assert [[len(r) for r in u.records] for u in units] == [[16_384], [16_384], [7232]]


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of at most 4 images."""
    most = np.array((4, 2**24, 32_768))
    monkeypatch.setattr("pcrstore.conversion.manifest_builder._MAX_PART", most)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("options", [RECORD, HELD, CUT], ids=["record", "zarr-held", "zarr-cut"])
def test_every_part_says_where_its_records_lie(options):
    store = DictStore()
    report = convert_to(store, Pictures(photos()), options)
    ds = dataset(store)
    m = ds.manifest
    assert [p.n_images for p in m.parts] == [3, 3, 3, 2]
    assert originals(ds) == photos()
    assert verify(store).faults == ()
    runs = [p.directory.runs for p in ds.index.parts(range(4))]
    if options.layout == "record":
        assert [len(of) for of in runs] == [1] * 4
        return
    assert len(set(runs)) == 1
    lengths = [*m.totals.groups, m.totals.restore]
    assert [run.n_bytes for run in runs[0]] == lengths
    assert report.n_objects == len(lengths)
    for run in runs[0]:
        sizes = {len(d) for n, d in store.objects.items() if n.startswith(f"{run.name}/c/")}
        assert sizes == {run.chunk}


@pytest.mark.parametrize("options", [HELD, CUT], ids=["held", "cut"])
def test_the_root_is_a_group_that_is_checked(options):
    store = DictStore()
    convert_to(store, Pictures(photos(3)), options)
    found = {c.name: c for c in read_manifest(store, 1).checked}
    for name in ("zarr.json", "zarr/zarr.json"):
        assert store.objects[name] == ROOT_JSON
        assert (found[name].n_bytes, found[name].checksum) == (len(ROOT_JSON), crc32c(ROOT_JSON))
    metadata = {n for n in store.objects if n.endswith("zarr.json")}
    assert metadata <= found.keys()


@pytest.mark.parametrize("hold_bytes", [0, 2**28], ids=["cut", "held"])
def test_chunks_too_small_for_a_record_are_refused(hold_bytes):
    files = {"a.png": png(1) * 30}
    options = replace(CUT, chunk_bytes=4, hold_bytes=hold_bytes, policy="opaque")
    store = DictStore()
    with pytest.raises(OptionError, match=r"chunk_bytes must be at least \d+, as a rec"):
        convert_to(store, Pictures(files), options)
    assert store.list("manifests") == []


def test_one_measured_image_is_its_own_interval():
    store = DictStore()
    report = convert_to(store, Pictures({"a.jpg": photo(1)}), RECORD)
    [q] = read_manifest(store, 1).quality
    assert (q.metric, q.n_images) == ("ms_ssim", 1)
    assert q.low == q.mean == q.high == report.ms_ssim
    assert q.percentiles == dict.fromkeys(("5", "25", "50", "75", "95"), q.mean)
    assert q.mean[-1] == 1.0


def test_the_interval_holds_the_mean_and_percentiles_rise():
    store = DictStore()
    convert_to(store, Pictures(photos()), RECORD)
    [q] = read_manifest(store, 1).quality
    table = np.array([q.percentiles[p] for p in ("5", "25", "50", "75", "95")])
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.array(q.low) <= q.mean).all()
    assert (np.array(q.mean) <= q.high).all()
    assert max(q.high) <= 1


def test_nothing_is_measured_where_every_image_is_opaque():
    store = DictStore()
    options = replace(RECORD, policy="opaque")
    report = convert_to(store, Pictures({"a.png": png(1)}), options)
    assert read_manifest(store, 1).quality == ()
    assert (report.ms_ssim, report.n_measured) == ((), 0)
    assert verify(store).faults == ()


def test_two_conversions_of_a_source_are_two_datasets_of_one_content():
    stores = DictStore(), DictStore()
    for store in stores:
        convert_to(store, Pictures(photos(5)), RECORD)
    a, b = (read_manifest(store, 1) for store in stores)
    assert a.uid != b.uid
    assert a.writer != b.writer
    assert a.same_content(b)
    assert content(stores[0]) == content(stores[1])


class Interrupted(DictStore):
    """A store in which another conversion commits just before the first manifest is created."""

    def __init__(self, options):
        super().__init__()
        self.options = options

    def create(self, name, data):
        if name == manifest_name(1) and name not in self.objects:
            other = DictStore(self.objects)
            convert_to(other, Pictures(photos(5)), self.options)
            self.objects = other.objects
        return super().create(name, data)


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_the_second_of_two_equal_conversions_takes_the_first_ones_dataset(layout):
    options = replace(RECORD if layout == "record" else CUT)
    store = Interrupted(options)
    report = convert_to(store, Pictures(photos(5)), options)
    assert report == replace(read_report(store, read_manifest(store, 1)), seconds=report.seconds)
    assert verify(store).faults == ()
    assert verify(store).unreferenced == ()


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_the_second_of_two_other_conversions_is_refused(layout):
    options = replace(RECORD if layout == "record" else CUT)
    store = Interrupted(replace(options, seed=7))
    with pytest.raises(DatasetExistsError, match="another writer committed version 1"):
        convert_to(store, Pictures(photos(5)), options)
    assert originals(dataset(store)) == photos(5)
    report = verify(store)
    assert report.faults == ()
    assert report.unreferenced  # of the one that lost


def a_report(n_problems, *, reason):
    problems = (
        Problem(key=f"{i:06d}\u732b.jpg", reason=reason, outcome="skipped")
        for i in range(n_problems)
    )
    return Report(
        conversion="ab" * 16,
        version=1,
        layout="record",
        script="two",
        n_files=n_problems,
        n_hidden=0,
        n_images=1,
        n_records=1,
        n_objects=1,
        source_bytes=1,
        group_bytes=(1, 1),
        header_bytes=1,
        restore_bytes=1,
        index_bytes=1,
        restore_kinds={},
        ms_ssim=(),
        n_measured=0,
        problems=tuple(problems),
    )


@pytest.mark.parametrize("reason", ["short", "\u732b\n\x00" * 30], ids=["short", "escaped"])
def test_a_report_has_the_first_problems_and_stays_within_its_bound(reason):
    report = a_report(400_000, reason=reason)
    data = report.encode()
    assert 2**24 < len(data) <= MAX_CHECKED
    store = DictStore({"reports/r.json": data})
    m = read_manifest(_one_image(), 1)
    checked = replace_checked(m, data)
    found = read_report(store, checked)
    assert found.problems == report.problems[: len(found.problems)]
    assert found.n_files == 400_000


def _one_image():
    store = DictStore()
    convert_to(store, Pictures({"a.jpg": photo(1)}), RECORD)
    return store


def replace_checked(m, data):
    """The manifest whose report these bytes are."""
    [entry], [conversion] = m.checked, m.conversions
    entry = changed(entry, name="reports/r.json", n_bytes=len(data), checksum=crc32c(data))
    conversion = changed(conversion, report="reports/r.json")
    return changed(m, checked=(entry,), conversions=(conversion,))


def test_a_manifest_that_no_reader_would_take_is_not_committed():
    labels = {"a.jpg": "c" * 4097}
    store = DictStore()
    with pytest.raises(OptionError, match="at most 4096 characters, got 4097"):
        convert_to(store, Pictures({"a.jpg": photo(1)}, labels=labels), RECORD)
    assert store.list("manifests") == []


def test_a_manifest_is_read_as_it_was_written():
    store = _one_image()
    name = manifest_name(1)
    m = decode_manifest(store.objects[name], version=1, where=name)
    assert encode_manifest(m) == store.objects[name]
