"""The doubles: one writes down what was asked for, one fails where it is told to."""

import pytest

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import TransientStoreError
from pcrstore.storage.local import LocalStore
from pcrstore.testing import Fault, FaultyStore, Recorded, RecordingStore, StoreKilled
from pcrstore.testing.contract import StoreContract


class TestRecordingStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return RecordingStore(LocalStore(str(tmp_path)))

    test_a_pickled_store_is_the_same_place = None  # a double stays where it is


class TestFaultyStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return FaultyStore(LocalStore(str(tmp_path)), {})

    test_a_pickled_store_is_the_same_place = None


def test_every_request_is_written_down(tmp_path):
    store = RecordingStore(LocalStore(str(tmp_path)))
    store.put("a", b"12345")
    store.create("b", b"1")
    store.get_ranges([ByteRange("a", 1, 3), ByteRange("a", 3, 3), ByteRange("a", 3, 4)])
    store.get("a", max_bytes=1000)
    store.list("")
    store.delete(["a", "b"])
    assert store.requests == [
        Recorded(op="put", name="a", n_bytes=5),
        Recorded(op="create", name="b", n_bytes=1),
        Recorded(op="get_range", name="a", start=1, stop=3, n_bytes=2),
        Recorded(op="get_range", name="a", start=3, stop=4, n_bytes=1),
        Recorded(op="get", name="a", n_bytes=5),
        Recorded(op="list", name="", n_bytes=2),
        Recorded(op="delete", name="a", n_bytes=0),
        Recorded(op="delete", name="b", n_bytes=0),
    ]
    assert len(store.named("get_range")) == 2
    store.clear()
    assert store.requests == []


@pytest.mark.parametrize(
    ("fault", "error", "done"),
    [
        (Fault.LOST_REQUEST, TransientStoreError, False),
        (Fault.LOST_REPLY, TransientStoreError, True),
        (Fault.KILLED_BEFORE, StoreKilled, False),
        (Fault.KILLED_AFTER, StoreKilled, True),
    ],
)
def test_a_fault_comes_before_or_after_the_deed(tmp_path, fault, error, done):
    inner = LocalStore(str(tmp_path))
    store = FaultyStore(inner, {1: fault})
    store.put("a", b"1")
    with pytest.raises(error):
        store.create("b", b"2")
    assert bool([e for e in inner.list("") if e.name == "b"]) is done
    assert store.n_requests == 2


def test_a_flipped_bit_is_one_bit(tmp_path):
    store = FaultyStore(LocalStore(str(tmp_path)), {2: Fault.FLIPPED_BIT})
    store.put("a", b"\0\0\0\0")
    ranges = [ByteRange("a", 0, 2), ByteRange("a", 0, 4), ByteRange("a", 0, 4)]
    assert store.get_ranges(ranges) == [b"\0\0", b"\0\0\1\0", b"\0\0\0\0"]
