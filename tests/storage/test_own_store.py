"""A store of one's own goes where a URL goes: convert, open, verify, export and the loaders."""

import json

import numpy as np
import pytest
from flows import RECORD, DictStore, originals, photos, put_all, write_tree

import pcrstore
from pcrstore import ByteRange, Entry, OptionError, Store
from pcrstore.storage.open import store_of
from pcrstore.testing.contract import StoreContract

FILES = photos(7)


class JsonStore(Store):
    """Objects as numbers in JSON files of a folder: not what anybody else would read.

    It says only what has no default.
    """

    def __init__(self, folder):
        self._folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def url(self):
        return f"json://{self._folder}"

    @property
    def create_is_atomic(self):
        return True

    def _file(self, name):
        if "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
            raise OptionError(f"no name: {name!r}")
        return self._folder / name.encode().hex()

    def get(self, name, *, max_bytes):
        data = self._get(name)
        if len(data) > max_bytes:
            raise pcrstore.FormatError(f"{name}: at most {max_bytes} bytes, got {len(data)}")
        return data

    def _get(self, name):
        try:
            return bytes(json.loads(self._file(name).read_text()))
        except FileNotFoundError:
            raise pcrstore.NotFoundError(f"{name}: not found") from None

    def get_ranges(self, ranges):
        bodies = [self._get(r.name)[r.start : r.stop] for r in ranges]
        if any(len(body) < len(r) for body, r in zip(bodies, ranges, strict=True)):
            raise pcrstore.StoreError("a range reaches past the end")
        return bodies

    def list(self, prefix):
        below = f"{prefix.removesuffix('/')}/" if prefix else ""
        names = sorted(bytes.fromhex(p.name).decode() for p in self._folder.iterdir())
        return [
            Entry(name=name, n_bytes=len(self._get(name)))
            for name in names
            if name.startswith(below)
        ]

    def put(self, name, data):
        path = self._file(name)
        part = path.with_suffix(f".{id(data)}")
        part.write_text(json.dumps(list(data)))
        part.replace(path)

    def create(self, name, data):
        try:
            with self._file(name).open("x") as file:
                file.write(json.dumps(list(data)))
        except FileExistsError:
            return False
        return True

    def delete(self, names):
        for name in names:
            self._file(name).unlink(missing_ok=True)


class TestOwnStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return JsonStore(tmp_path / "objects")


class TestStoreInMemory(StoreContract):
    @pytest.fixture
    def store(self):
        return DictStore()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A source and a dataset, both in stores of one's own, by workers that were spawned."""
    tmp = tmp_path_factory.mktemp("own")
    source, store = JsonStore(tmp / "in"), JsonStore(tmp / "out")
    put_all(source, FILES)
    return pcrstore.convert(source, store, RECORD, workers=2), store


def test_it_is_converted_opened_and_verified(converted):
    report, store = converted
    assert report.n_images == len(FILES)
    assert originals(pcrstore.open(store)) == FILES
    assert pcrstore.open(store, version=1).version == 1
    checked = pcrstore.verify(store)
    assert (checked.n_images, checked.faults) == (len(FILES), ())


def test_a_conversion_into_it_is_the_one_into_a_folder(converted, tmp_path):
    report, store = converted
    tree = write_tree(tmp_path / "in", FILES)
    pcrstore.convert(tree, tmp_path / "out", RECORD, workers=1)
    here, there = (pcrstore.open(s) for s in (store, tmp_path / "out"))
    assert here.fetch(range(len(here)), 2) == there.fetch(range(len(there)), 2)
    assert report.n_images == len(there)


def test_it_is_exported(converted, tmp_path):
    report = pcrstore.export(pcrstore.open(converted[1]), str(tmp_path / "x"), fidelity="original")
    assert report.n_files == len(FILES)


def test_loaders_read_it_alone_and_in_a_mix(converted):
    store = converted[1]
    first = next(iter(pcrstore.NumpyLoader(store, batch_size=4, size=16, shuffle=False)))
    opened = pcrstore.NumpyLoader(pcrstore.open(store), batch_size=4, size=16, shuffle=False)
    assert np.array_equal(first[0], next(iter(opened))[0])
    mix = pcrstore.Mix({store: 1, pcrstore.open(store): 1})
    assert len(next(iter(pcrstore.NumpyLoader(mix, batch_size=8, size=16)))[0]) == 8
    with pytest.raises(OptionError, match="a store has its own"):
        pcrstore.NumpyLoader(store, batch_size=4, size=16, storage_options={"key": "k"})


def test_workers_of_a_torch_loader_read_it(converted):
    torch = pytest.importorskip("torch")
    from pcrstore.torch import Loader, MapDataset  # noqa: PLC0415 (torch is optional)

    store = converted[1]
    for context in ("fork", "spawn"):
        workers = {"num_workers": 2, "multiprocessing_context": context}
        loader = Loader(store, batch_size=4, size=16, **workers)
        assert sum(len(labels) for _, labels in loader) == len(FILES)
    data = MapDataset(store, size=16)
    rows = torch.utils.data.DataLoader(data, batch_size=3, num_workers=1)
    assert sum(len(labels) for _, labels in rows) == len(FILES)


class Ranges:
    """Almost a store."""

    url = "x://"

    def get_ranges(self, ranges):
        return [b"" for _ in ranges]


REFUSED = {
    "lacks": (lambda: pcrstore.open(Ranges()), r"a Ranges is no store, for it lacks can_list, "),
    "destination": (lambda: pcrstore.convert("in", Ranges()), "a Ranges is no store"),
    "options": (lambda: store_of(DictStore(), {"key": "k"}), "a store has its own"),
    "engine": (lambda: pcrstore.verify(DictStore(), engine="fsspec"), "a store has its own"),
    "number": (lambda: pcrstore.open(5), "url must be a text or a path, got a int"),
    "mix": (lambda: pcrstore.Mix({Ranges(): 1}), "a path, a store or an open dataset"),
}


@pytest.mark.parametrize(("call", "says"), REFUSED.values(), ids=REFUSED)
def test_an_object_that_is_no_store_is_refused(call, says):
    with pytest.raises(OptionError, match=says):
        call()


class Readable(DictStore):
    """A store that lacks a method which only writers need."""

    sweep = property()


def test_a_destination_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(OptionError, match="a Readable is no store, for it lacks sweep"):
        pcrstore.convert(write_tree(tmp_path, photos(3)), Readable(), RECORD, workers=1)
    assert store_of(Readable()).objects == {}


def test_ranges_of_objects_can_be_made_from_the_public_names():
    assert DictStore({"a": b"0123"}).get_ranges([ByteRange("a", 1, 3)]) == [b"12"]
