"""The index is read by pages, each once, and a page that is wrong is an error that names it."""

import pickle
from threading import Thread

import numpy as np
import odd_columns
import pytest
from flows import RECORD, DictStore, convert_to, dataset, photos, write_tree
from rewritten import Draft
from small_datasets import opened as opened_dataset
from small_datasets import parts_of, stored

from pcrstore.cost.model import DEFAULT_COST
from pcrstore.dataset.index_reader import IndexReader
from pcrstore.errors import ChecksumError, OptionError, UnsupportedFormatError
from pcrstore.format.columns import Column
from pcrstore.testing import Fault, FaultyStore, RecordingStore

N = 26
"""Images: two parts of nine in records of three, and one of eight."""


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    tree = write_tree(tmp_path_factory.mktemp("source"), photos(N))
    store = DictStore()
    with pytest.MonkeyPatch.context() as patch:
        parts_of(patch, 9)
        patch.setattr("pcrstore.format.index_pages._ROWS_PER_PAGE", 4)
        convert_to(store, tree, RECORD)
    return store.objects


def opened(objects, faults=None):
    store = RecordingStore(FaultyStore(DictStore(objects), faults or {}))
    return store, IndexReader(store, dataset(DictStore(objects)).manifest, DEFAULT_COST)


def test_parts_are_no_larger_than_they_may_be(objects):
    parts = dataset(DictStore(objects)).manifest.parts
    assert [p.n_images for p in parts] == [9, 9, 8]


def test_columns_of_some_images_are_those_of_all(objects):
    _, index = opened(objects)
    keys = index.column("key", range(N))
    assert sorted(keys) == sorted(photos(N))
    for picked in ([], [5], [25, 0, 11, 11], list(range(7, 20))):
        assert index.column("key", picked) == [keys[i] for i in picked]
        hashes = np.asarray(index.column("source_sha256", picked))
        assert hashes.shape == (len(picked), 32)
    with pytest.raises(OptionError, match="column must be one of"):
        index.columns(["key", "nothing"], [0])


IMAGES = {
    "all": list(range(N)),
    "none": [],
    "one": [10],
    "ends of parts": [8, 9, 17, 18, 25, 0],
    "in any order, again": [25, 4, 4, 11, 0, 25],
    "array": np.array([24, 3]),
}


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_images_are_located_in_the_records_that_hold_them(objects, images):
    _, index = opened(objects)
    rows, number = [], 0
    for p, part in enumerate(index.parts(range(3))):
        for r, size in enumerate(part.records["n_images"].tolist()):
            rows += [(p, r, number, size, slot) for slot in range(size)]
            number += 1
    found = index.locate(images)
    columns = (found.part, found.record, found.number, found.record_size, found.slot)
    assert {c.dtype for c in columns} == {np.dtype(np.int64)}
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == [rows[i] for i in images]


def test_locating_reads_the_parts_touched_alone(objects):
    store, index = opened(objects)
    index.locate([17, 0])
    names = [p.name for p in dataset(DictStore(objects)).manifest.parts]
    assert {r.name for r in store.named("get_range")} == set(names[:2])


def test_a_page_is_read_once(objects):
    store, index = opened(objects)
    index.column("label", [0, 1])
    n = len(store.requests)
    index.column("label", [3, 2])  # the same page of four
    assert len(store.requests) == n
    index.column("label", [4])
    assert len(store.requests) == n + 1
    assert index.counter.n_requests == n + 1
    assert index.counter.n_bytes == sum(r.n_bytes for r in store.requests)


def test_headers_are_read_one_by_one_and_once(objects):
    store, index = opened(objects)
    a = index.headers([(0, 1), (2, 0), (0, 1)])
    assert a[0] is a[2]
    n = len(store.requests)
    assert index.headers([(2, 0)])[0] is a[1]
    assert len(store.requests) == n


def test_any_one_reply_may_be_wrong(objects):
    def read(index):
        return (
            index.column("key", range(N)),
            [h.lengths.tolist() for h in index.headers([(0, 0), (1, 2), (2, 1)])],
            index.restore_rows(1, 1).tolist(),
        )

    store, index = opened(objects)
    expected = read(index)
    for at in range(len(store.requests)):
        assert read(opened(objects, {at: Fault.FLIPPED_BIT})[1]) == expected
        thrice = {at + i: Fault.FLIPPED_BIT for i in range(40)}
        with pytest.raises(ChecksumError, match="index/"):
            read(opened(objects, thrice)[1])


def test_threads_read_a_part_once(objects):
    store, index = opened(objects)
    threads = [Thread(target=index.parts, args=([0, 1, 2],)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({(r.name, r.start) for r in store.requests}) == len(store.requests)


def test_a_pickle_holds_nothing_that_was_read(objects):
    ds = dataset(DictStore(objects))
    index = IndexReader(ds.store, ds.manifest, ds.cost)
    before = pickle.dumps(index)
    keys = index.column("key", range(N))
    assert pickle.dumps(index) == before
    again = pickle.loads(before)  # noqa: S301 - our own bytes
    assert again.counter.n_requests == 0
    assert again.column("key", range(N)) == keys
    assert again.counter.n_requests == index.counter.n_requests


@pytest.mark.parametrize("name", ["label", "key"])
def test_pages_that_were_not_used_for_long_are_forgotten(objects, monkeypatch, name):
    _, index = opened(objects)
    # Two pages of four, as they are in memory: numbers of 4 bytes; texts, their lengths, objects.
    texts = sum(len(key.encode()) + 4 + 64 for key in index.column("key", range(8)))
    monkeypatch.setattr(
        "pcrstore.dataset.index_reader._PAGE_BYTES", {"label": 2 * 4 * 4, "key": texts}[name]
    )
    store, index = opened(objects)

    def n_requests(image):
        store.clear()
        index.column(name, [image])
        return len(store.requests)

    assert [n_requests(i) for i in (0, 4, 0, 4)][2:] == [0, 0]
    assert n_requests(8) > 0  # of the third page: that of image 0 was used before that of 4
    assert n_requests(4) == 0
    assert n_requests(0) > 0


@pytest.fixture(scope="module", params=["record", "zarr"])
def odd(request):
    return odd_columns.with_columns(request.param)


@pytest.mark.parametrize("name", odd_columns.VALUES)
def test_values_of_any_kind_are_null_where_they_or_their_part_lack(odd, name):
    _, index = opened(odd)
    wanted = odd_columns.expected(name)
    assert None in wanted
    for images in (range(odd_columns.N), [], [7], [0, 19, 2, 2, 11, 1], [1, 2], [6, 7, 8]):
        values = index.column(name, images)
        assert odd_columns.plain(values) == [wanted[i] for i in images]
        if isinstance(values, np.ndarray):
            assert values.dtype == odd_columns.VALUES[name][0]
            assert np.ma.isMaskedArray(values) == any(wanted[i] is None for i in images)


@pytest.mark.parametrize("lacking", [set(), {1}, {0, 1, 2, 3}], ids=repr)
def test_a_column_of_a_later_type_is_refused_and_no_other(lacking):
    draft = Draft.of(stored())
    column = Column(name="wave", dtype="<c8", shape=())
    draft.add(column, np.zeros(20, np.complex64), lacking=lacking)
    ds = opened_dataset(DictStore(draft.encode()))
    for use in (lambda: ds.column("wave"), lambda: ds.find(wave=None)):
        with pytest.raises(UnsupportedFormatError, match=r"wave has the type '<c8', .* upgrade"):
            use()
    assert len(ds.keys) == len([*ds]) == len(ds)


def test_a_part_that_lacks_a_column_is_not_read_for_it(odd):
    store, index = opened(odd)
    index.parts(range(4))
    store.clear()
    index.column("score", range(6, 12))
    assert store.requests == []
