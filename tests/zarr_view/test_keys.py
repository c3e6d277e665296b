"""A key is a range of records, or a value made of the index."""

import pytest
from small_datasets import NO_GAPS, of_images, opened, recorded

from pcrstore.errors import FormatError
from pcrstore.testing import RecordingStore
from pcrstore.zarr_view.keys import keys_of

LAYOUTS = ["record", "zarr"]


@pytest.mark.parametrize("chunk_bytes", [500, 10**6])
def test_chunks_of_a_region_are_its_records_one_after_the_other(chunk_bytes):
    ds, store = recorded()
    keys = keys_of(ds, chunk_bytes)
    names = [name for name in keys.names() if name.startswith("group_2/c/")]
    names.sort(key=lambda name: int(name.rpartition("/")[2]))
    stored = b"".join(keys.read(name, 0, keys.size(name)) for name in names)
    wanted = []
    for part in ds.index.parts(range(len(ds.manifest.parts))):
        for r, row in enumerate(part.records):
            wanted += part.placement(r).locate(1, 0, int(row["length"][1]))
    expected = b"".join(store.store.get_ranges(wanted))
    assert stored[: len(expected)] == expected
    assert not any(stored[len(expected) :])


def test_bytes_of_a_chunk_are_the_bytes_that_are_read():
    ds, store = recorded(cost=NO_GAPS)
    keys = keys_of(ds, 10**6)
    store.clear()
    keys.read("group_1/c/0", 0, 10)
    [(_, start, stop)] = of_images(store)
    assert stop - start == 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_has_a_size_and_no_other_key_has(layout):
    ds, _ = recorded(layout)
    keys = keys_of(ds, 1000)
    assert all(keys.size(name) is not None for name in keys.names())
    for key in ("", "zarr", "group_9/zarr.json", "group_1"):
        assert keys.size(key) is None


def test_a_stored_chunk_that_is_missing_is_an_error():
    _, store = recorded("zarr")
    objects = store.store
    [lost] = [name for name in objects.objects if name.endswith("group_1/c/0")]
    objects.delete([lost])
    keys = keys_of(opened(RecordingStore(objects)), 1000)
    with pytest.raises(FormatError, match="missing"):
        keys.size("group_1/c/0")
