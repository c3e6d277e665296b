"""verify finds every byte that is not what was written, and a read never passes one off."""

import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from flows import CUT, HELD, RECORD, DictStore, convert_to, dataset, photos, png, write_tree

import pcrstore
from pcrstore.cost.model import DEFAULT_COST
from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.versions import newest_version, read_manifest
from pcrstore.errors import NotFoundError, PcrstoreError, StoreError, TransientStoreError
from pcrstore.format.names import LATEST
from pcrstore.maintenance.verifier import verify
from pcrstore.testing import Fault, FaultyStore, RecordingStore

OPTIONS = {"record": RECORD, "zarr-held": HELD, "zarr-cut": CUT}
FILES = {**photos(), "dog/kept.png": png(1)}


def check(store):
    return verify(store)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Layout -> name -> bytes of a whole dataset."""
    tree = write_tree(tmp_path_factory.mktemp("source"), FILES)
    out = {}
    for layout, options in OPTIONS.items():
        store = DictStore()
        convert_to(store, tree, replace(options, policy="opaque"))
        out[layout] = store.objects
    return out


@pytest.fixture(params=OPTIONS)
def objects(request, stored):
    return dict(stored[request.param])


def kind(name):
    """What an object is for."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", name)


def truth(objects):
    ds = dataset(DictStore(objects))
    whole = range(len(ds))
    return {k: ds.fetch(whole, fidelity=k) for k in (1, 3, "full", "original")} | {
        "keys": ds.keys,
        "labels": ds.labels.tolist(),
    }


def reads_are_right_or_refused(objects, expected):
    """Read everything in several ways; say whether anything was refused."""
    store = DictStore(objects)
    refused = False
    try:
        version = newest_version(store)
        ds = Dataset(store, read_manifest(store, version), DEFAULT_COST)
    except PcrstoreError:
        return True
    for k in (1, 3, "full", "original"):
        for i in range(len(ds)):
            try:
                assert ds.fetch([i], fidelity=k) == [expected[k][i]]
            except PcrstoreError:
                refused = True
    for k in (1, 3, "full"):
        try:
            got = [(s.jpeg, s.key, s.label) for s in ds.iter(k)]
        except PcrstoreError:
            refused = True
            continue
        assert got == list(zip(expected[k], expected["keys"], expected["labels"], strict=True))
    return refused


def test_a_whole_dataset_has_no_fault(objects):
    report = check(DictStore(objects))
    assert report.faults == ()
    assert report.n_images == len(FILES)
    assert report.versions == (1,)
    assert report.n_objects == len(objects)
    read = sum(len(d) for n, d in objects.items() if n != LATEST)
    assert report.n_bytes >= read - sum(len(d) for n, d in objects.items() if "/c/" in n)


def flips(rng, data):
    for _ in range(6):
        at = rng.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cuts(rng, data):
    yield data[:-1]
    yield data[: rng.randrange(len(data))]
    yield b""


def grown(rng, data):
    yield data + b"\0"
    yield data + rng.randbytes(9)


@pytest.mark.parametrize("spoil", [flips, cuts, grown])
def test_every_change_of_every_object_is_found(objects, spoil):
    rng = random.Random(5)  # noqa: S311 - seeded on purpose
    n = 0
    for name, data in objects.items():
        for spoiled in spoil(rng, data):
            faults = check(DictStore({**objects, name: spoiled})).faults
            assert faults, name
            assert any(f.name == name or name.startswith(f"{f.name}/") for f in faults), name
            n += 1
    assert n >= 14


def test_every_missing_object_is_found(objects):
    for name in objects:
        without = {n: d for n, d in objects.items() if n != name}
        if name == LATEST:  # written after the commit, and not needed where LIST works
            assert check(DictStore(without)).faults == ()
            continue
        faults = check(DictStore(without)).faults
        assert any(f.name in (name, LATEST) or name.startswith(f.name) for f in faults), name


def test_objects_that_stand_in_for_each_other_are_found(objects):
    by_kind = {}
    for name in objects:
        by_kind.setdefault(kind(name), []).append(name)
    n = 0
    for names in by_kind.values():
        for a, b in pairwise(names):
            if objects[a] == objects[b]:
                continue
            swapped = {**objects, a: objects[b], b: objects[a]}
            assert check(DictStore(swapped)).faults, (a, b)
            one = {**objects, a: objects[b]}
            assert check(DictStore(one)).faults, (a, b)
            n += 1
    assert n >= 1


def test_a_read_of_what_was_changed_is_right_or_refused(objects):
    expected = truth(objects)
    rng = random.Random(6)  # noqa: S311 - seeded on purpose
    n_refused = 0
    for name, data in objects.items():
        changes = [next(flips(rng, data)), next(flips(rng, data)), data[: rng.randrange(len(data))]]
        for spoiled in (*changes, data + b"\0", None):
            changed = {**objects, name: spoiled}
            if spoiled is None:
                del changed[name]
            n_refused += reads_are_right_or_refused(changed, expected)
    assert n_refused > 10


def test_one_fault_does_not_hide_the_next(objects):
    names = [n for n in objects if n.endswith(".pcr") or "/group_2/c/" in n]
    changed = dict(objects)
    for name in names:
        data = changed[name]
        changed[name] = data[:40] + bytes([data[40] ^ 1]) + data[41:]
    found = {f.name for f in check(DictStore(changed)).faults}
    if names[0].endswith(".pcr"):
        assert found == set(names)
    else:
        assert found


def test_nothing_there_is_not_found():
    with pytest.raises(NotFoundError):
        check(DictStore())


def test_a_store_that_fails_is_not_a_damaged_dataset(objects):
    n = _count(objects)
    for at in range(n):
        with pytest.raises(TransientStoreError):
            check(FaultyStore(DictStore(objects), {at: Fault.LOST_REQUEST}))


def _count(objects):
    store = FaultyStore(DictStore(objects), {})
    check(store)
    return store.n_requests


def test_a_flip_on_the_way_is_read_again_or_reported(objects):
    """One bad reply to one request: never an exception of ours that is not a fault."""
    for at in range(_count(objects)):
        report = check(FaultyStore(DictStore(objects), {at: Fault.FLIPPED_BIT}))
        assert len(report.faults) <= 2


def test_progress_counts_every_image(objects):
    seen = []
    verify(DictStore(objects), progress=seen.append)
    assert sum(seen) == len(FILES)


def test_store_errors_are_ours():
    assert issubclass(TransientStoreError, StoreError)


@pytest.mark.parametrize("layout", OPTIONS)
def test_what_no_version_names_is_counted_and_no_fault(tmp_path, layout):
    tree = write_tree(tmp_path / "in", photos(5))
    pcrstore.convert(tree, tmp_path / "out", OPTIONS[layout], workers=1)
    assert verify(str(tmp_path / "out")).unreferenced == ()
    lost = {"objects/lost.pcr": b"123", "staging/a/b/unit-000001": b"4", "zarr/x/group_1/c/0": b"5"}
    write_tree(tmp_path / "out", {**lost, "notes.txt": b"not ours"})
    report = verify(str(tmp_path / "out"))
    assert report.faults == ()
    assert report.unreferenced == tuple(sorted(lost))
    assert report.unreferenced_bytes == 5


def test_a_record_is_read_by_one_request(stored):
    store = RecordingStore(DictStore(stored["record"]))
    assert not check(store).faults
    asked = [r for r in store.named("get_range") if r.name.startswith("objects/")]
    assert len(asked) == dataset(store).n_records
    assert sum(r.n_bytes for r in asked) == sum(
        len(data) for name, data in stored["record"].items() if name.startswith("objects/")
    )
