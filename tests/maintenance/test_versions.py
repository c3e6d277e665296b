"""Datasets of two conversions, and without some images: every version is read and verified.

No conversion writes such versions yet; `two_conversions` makes them as FORMAT.md says.
"""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from flows import CUT, RECORD, DictStore, Pictures, convert_to, photo, png, write_tree
from two_conversions import append, remove

import pcrstore
from pcrstore.cli import main
from pcrstore.cost.model import DEFAULT_COST
from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.versions import read_manifest
from pcrstore.format.manifest import encode_manifest
from pcrstore.maintenance.verifier import verify

G = 5
A = {
    **{f"cat/{i}.jpg": photo(i, mode=("RGB", "L")[i % 2]) for i in range(4)},
    **{f"dog/{i}.jpg": photo(i) for i in range(4, 8)},
    "dog/8.png": png(8),
}
B = {
    **{f"eel/{i}.jpg": photo(i, progressive=i == 21) for i in range(20, 24)},
    **{f"cat/{i}.jpg": photo(i, mode="CMYK") for i in range(24, 27)},
    "b.jpg": photo(27),
}
LAYOUTS = {"record": RECORD, "zarr": CUT}


def source(files, split):
    """Files whose folders are classes, all of one split."""
    labels = {key: key.split("/")[0] for key in files if "/" in key}
    return Pictures(files, labels=labels, splits=dict.fromkeys(files, split))


def converted(layout, files, split, **options):
    store = DictStore()
    convert_to(store, source(files, split), replace(LAYOUTS[layout], policy="opaque", **options))
    return store


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def separate(layout):
    """The two datasets; records and chunks of the second have other sizes."""
    return converted(layout, A, "train"), converted(
        layout, B, "val", record_images=2, chunk_bytes=900
    )


@pytest.fixture(scope="module")
def store(separate):
    """Version 1 of the first, version 2 of both."""
    a, b = separate
    both = DictStore(a.objects)
    append(both, b.objects)
    return both


def opened(store, version):
    return Dataset(store, read_manifest(store, version), DEFAULT_COST)


def images(ds):
    """Everything about each image, with the names of its class and its split."""
    n = len(ds)
    whole = range(n)
    names = [*ds.classes, None], [*ds.manifest.splits, None]
    columns = {c.name: np.asarray(ds.column(c.name)) for c in ds.manifest.columns}
    return [
        {
            "files": [ds.fetch([i], k)[0] for k in (1, 2, 3, 4, G, "original")],
            "class": names[0][columns["label"][i]],
            "split": names[1][int(columns["split"][i])],
            **{k: v[i].tolist() for k, v in columns.items() if k not in ("label", "split")},
        }
        for i in whole
    ]


def test_two_conversions_read_as_the_two_datasets(store, separate):
    a, b = (images(opened(s, 1)) for s in separate)
    ds = opened(store, 2)
    assert images(ds) == a + b
    assert images(opened(store, 1)) == a
    assert ds.classes == ("cat", "dog", "eel")
    assert ds.manifest.splits == ("train", "val")
    for k in (1, 3, "full", "original"):
        whole = range(len(ds))
        both = [opened(s, 1).fetch(range(n), k) for s, n in zip(separate, (9, 8), strict=True)]
        assert ds.fetch(whole, k) == both[0] + both[1]
    assert [s.jpeg for s in ds.iter(2)] == ds.fetch(range(17), 2)
    encode_manifest(ds.manifest)


def test_every_version_is_verified_and_what_they_share_once(store):
    report = verify(store)
    assert report.faults == ()
    assert report.versions == (2, 1)
    assert report.n_images == 17
    assert report.unreferenced == ()
    assert report.n_objects == len(store.objects)


def test_the_first_version_is_no_other_than_before(store, separate):
    a, _ = separate
    assert {name: store.objects[name] for name in a.objects} == a.objects


def test_classes_of_one_name_are_one(store):
    ds = opened(store, 2)
    labels = ds.labels.tolist()
    keys = ds.keys
    assert [k.split("/")[0] for k, v in zip(keys, labels, strict=True) if v == 0] == ["cat"] * 7
    assert labels[keys.index("b.jpg")] == -1
    assert len(ds.find(label="cat")) == 7


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("ds"), store.objects)


def test_an_export_has_every_file(folder, tmp_path):
    words = ["export", str(folder), str(tmp_path / "out"), "--fidelity", "original"]
    assert CliRunner().invoke(main, words).exit_code == 0
    out = tmp_path / "out"
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == A | B


def test_a_loader_sees_every_image_once(folder):
    with (
        pcrstore.NumpyLoader(folder, 5, 2, 16, n_threads=1, positions=True, opaque="decode")
        if False
        else pcrstore.NumpyLoader(folder, 5, 2, 16, n_threads=1, positions=True) as loader
    ):
        batches = list(loader)
    positions = np.concatenate([p for *_, p in batches])
    assert sorted(positions.tolist()) == list(range(17))
    labels = np.concatenate([batch[1] for batch in batches])
    ds = pcrstore.open(folder)
    assert (labels == ds.labels[positions]).all()


@pytest.mark.parametrize("consolidated", [True, False])
def test_both_groups_are_zarr_groups(layout, folder, separate, consolidated):
    if layout == "record":
        pytest.skip("no arrays")
    zarr = pytest.importorskip("zarr")
    xarray = pytest.importorskip("xarray")
    conversions = pcrstore.open(folder).manifest.conversions
    assert len({c.id for c in conversions}) == 2
    for conversion, part in zip(conversions, separate, strict=True):
        ds = opened(part, 1)
        name = f"zarr/{conversion.id}"
        group = zarr.open(str(folder), mode="r")[name]
        table = xarray.open_zarr(str(folder / name), consolidated=consolidated)
        assert table.sizes["image"] == len(ds)
        classes = group.attrs["classes"]
        named = [classes[v] if v >= 0 else None for v in group["labels"][:].tolist()]
        assert named == [ds.classes[v] if v >= 0 else None for v in ds.labels.tolist()]
        offsets = table["image_offsets"].values
        for i, file in enumerate(ds.fetch(range(len(ds)), 3)):
            cells = [
                table[f"group_{g + 1}"].values[offsets[i, g] : offsets[i + 1, g]].tobytes()
                for g in range(3)
            ]
            eoi = b"" if group["opaque"][i] else b"\xff\xd9"
            assert b"".join(cells) + eoi == file


REMOVED = {
    # id: records of version 2 that version 3 has not
    "first": {0},
    "middle": {1, 4},
    "last": {6},
    "one-of-an-object": {1},
    "a-whole-conversion": {0, 1, 2},
    "all-but-one": {0, 1, 3, 4, 5, 6},
}


@pytest.mark.parametrize("records", REMOVED.values(), ids=REMOVED)
def test_a_version_without_some_records_reads_and_verifies(store, records):
    before = opened(store, 2)
    assert before.n_records == 7
    less = DictStore(store.objects)
    remove(less, records)
    after = opened(less, 3)
    edges = [0, 3, 6, 9, 11, 13, 15, 17]
    kept = [i for r in range(7) if r not in records for i in range(edges[r], edges[r + 1])]
    whole = images(before)
    assert images(after) == [whole[i] for i in kept]
    assert [s.key for s in after.iter(1)] == [whole[i]["key"] for i in kept]
    report = verify(less)
    assert report.faults == ()
    assert report.versions == (3, 2, 1)
    assert images(opened(less, 2)) == whole
    encode_manifest(after.manifest)


def test_a_removal_of_a_removal_counts_all_that_is_unused(store):
    less = DictStore(store.objects)
    remove(less, {1, 5})
    remove(less, {0})
    assert len(opened(less, 4)) == 17 - 5 - 3
    assert verify(less).faults == ()


def test_a_fault_of_what_versions_share_is_named_once(store):
    spoiled = DictStore(store.objects)
    name = min(n for n in store.objects if n.startswith("objects/") or "/group_1/c/" in n)
    data = spoiled.objects[name]
    spoiled.objects[name] = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    faults = verify(spoiled).faults
    assert len(faults) == 1
    assert name.startswith(faults[0].name)
