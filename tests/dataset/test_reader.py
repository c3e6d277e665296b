"""Scattered images and whole records come as what was stored; damage is read again."""

import pytest
from small_datasets import PassingStore, a_dataset

from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.fetch import ATTEMPTS
from pcrstore.dataset.planner import WantedCells, WantedPrefix
from pcrstore.dataset.reader import RecordSelection
from pcrstore.errors import ChecksumError
from pcrstore.jpeg.end_of_band import ending

G = 5
IMAGES = (0, 2)


class DamagingStore(PassingStore):
    """Flips a bit of a byte, `at` or the last of all, in the first reads of images."""

    def __init__(self, store, n_damaged, at=None):
        super().__init__(store)
        self.n_damaged, self.at = n_damaged, at
        self.asked = []

    def get_ranges(self, ranges):
        bodies = self.store.get_ranges(ranges)
        if all(r.name.startswith("index/") for r in ranges):
            return bodies
        self.asked.append(ranges)
        name, at = self.at or (ranges[-1].name, ranges[-1].stop - 1)
        for i, r in enumerate(ranges):
            if len(self.asked) <= self.n_damaged and r.name == name and r.start <= at < r.stop:
                data = bytearray(bodies[i])
                data[at - r.start] ^= 1
                bodies[i] = bytes(data)
        return bodies


def damaging(ds, n_damaged, at=None):
    """The same dataset read from a store that damages, and the store."""
    store = DamagingStore(ds.store, n_damaged, at)
    return Dataset(store, ds.manifest, ds.cost), store


def decodable(data, k):
    """A JPEG below full fidelity ends in scans that say that no more come."""
    return data[:-2] + ending(data) if k < G and data.startswith(b"\xff\xd8") else data


class Case:
    """The first record of a small dataset, and what a decoder takes of its images."""

    def __init__(self, layout="record", *, images=None, fidelity=3):
        self.ds = a_dataset(layout, opaque=(1,))
        self.selection = RecordSelection(part=0, record=0, images=images, fidelity=fidelity)
        k = fidelity if isinstance(fidelity, tuple) else (fidelity,) * 99
        first, stop = self.ds.index.parts([0])[0].image_edges[:2].tolist()
        positions = range(first, stop) if images is None else images
        self.expected = [
            decodable(self.ds.fetch([i], k[n])[0], k[n]) for n, i in enumerate(positions)
        ]


SOME = {"images": IMAGES, "fidelity": (2, 5)}
KINDS = [{}, {"fidelity": G}, {"fidelity": 1}, SOME, {"images": IMAGES, "fidelity": 3}]


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_image_is_what_the_dataset_gives(layout, kind):
    case = Case(layout, **kind)
    ds, store = damaging(case.ds, 0)
    assert list(ds.reader().files([case.selection])) == [case.expected]
    assert len(store.asked) == 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("n_damaged", range(ATTEMPTS + 1))
def test_damage_is_read_again_until_it_is_real(kind, n_damaged):
    case = Case(**kind)
    ds, store = damaging(case.ds, n_damaged)
    if n_damaged < ATTEMPTS:
        assert list(ds.reader().files([case.selection])) == [case.expected]
        assert len(store.asked) == 1 + n_damaged
    else:
        with pytest.raises(ChecksumError):
            list(ds.reader().files([case.selection]))
        assert len(store.asked) == ATTEMPTS


@pytest.mark.parametrize("n_damaged", [0, 1, ATTEMPTS])
def test_only_what_is_damaged_is_read_again_and_what_comes_before_is_given(n_damaged):
    plain = a_dataset()
    selections = [
        RecordSelection(part=p, record=r, images=None, fidelity=3)
        for p, r in [(0, 0), (0, 1), (1, 0)]
    ]
    expected = list(plain.reader().files(selections))
    [second] = plain.index.parts([0])[0].placement(1).prefix(3)
    ds, store = damaging(plain, n_damaged, (second.name, second.stop - 1))
    files = ds.reader().files(selections)
    if n_damaged < ATTEMPTS:
        assert list(files) == expected
    else:
        assert next(files) == expected[0]
        with pytest.raises(ChecksumError):
            next(files)
    assert store.asked[1:] == [[second]] * min(n_damaged, ATTEMPTS - 1)


def test_positions_become_a_want_for_each_record():
    """Position 4 is the second of record 1; position 1 is wanted twice, and read once."""
    reader = a_dataset().reader()
    none = [False] * 5
    wants, places = reader._wants_at([5, 1, 4, 1, 3], [2, 1, 2, 3, 2], none)
    whole, some = wants
    assert isinstance(whole, WantedPrefix)
    assert (whole.record, whole.fidelity) == (1, 2)
    assert isinstance(some, WantedCells)
    assert (some.record, some.images, some.fidelities) == (0, (1,), (3,))
    assert places == [(0, 2), (1, 0), (0, 1), (1, 0), (0, 0)]
    found = reader.cells_at([5, 1, 4, 1, 3], [2, 1, 2, 3, 2], none)
    assert [len(image.cells) for image in found] == [2, 1, 2, 3, 2]
    assert found[1].cells == found[3].cells[:1]


def test_a_restore_blob_is_given_where_it_was_asked_for():
    found = a_dataset().reader().cells_at([0, 1, 0], [G, G, 2], [True, False, False])
    assert [image.restore is not None for image in found] == [True, False, False]
    assert [len(image.cells) for image in found] == [G, G, 2]


@pytest.mark.parametrize("part_bytes", [None, 1, 100, 10**6])
def test_a_long_request_is_made_as_several(part_bytes):
    plain = a_dataset()
    ds, store = damaging(plain, 0)
    reader = ds.reader(part_bytes=part_bytes)
    selection = RecordSelection(part=0, record=0, images=None, fidelity=2)
    assert list(reader.files([selection])) == list(plain.reader().files([selection]))
    [asked] = store.asked
    assert all(len(r) <= (part_bytes or len(r)) for r in asked)
    assert (len(asked) == 1) == (part_bytes in (None, 10**6))
    assert reader.counter.n_requests == len(asked)
    assert reader.counter.n_bytes == sum(map(len, asked))
