"""The count is never lower than what is there, and the lock stops nobody for ever."""

import fcntl
import os
import signal
import struct
import threading
import time

import pytest
from cache_folders import (
    KB,
    OTHER,
    URL,
    aged,
    at,
    body,
    counted,
    files,
    held,
    on_disk,
    temporary_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.storage.cache.cache import Cache, CacheWarning
from pcrstore.storage.cache.files import body_name, folder_name


@pytest.mark.parametrize("size", [0, KB // 2, KB + 1, 50 * KB])
@pytest.mark.parametrize("discard", [False, True])
def test_a_file_that_changed_its_length_takes_no_other_out_of_the_count(folder, size, discard):
    ds = Cache(folder, limit=4 * KB).of(URL)
    for i in range(3):
        ds.put(at(i), body(i))
    os.truncate(folder / body_name(folder_name(URL), at(1)), size)
    if discard:
        ds.discard(at(1))
    assert ds.get(at(1)) is None
    assert counted(folder) >= on_disk(folder) == 2 * KB
    for i in range(3, 8):
        ds.put(at(i), body(i))
        assert on_disk(folder) <= counted(folder) <= 4 * KB


def test_a_count_that_a_crash_left_too_low_never_goes_below_zero(folder):
    ds = Cache(folder, limit=4 * KB).of(URL)
    for i in range(4):
        ds.put(at(i), body(i))
    ledger = struct.pack("<16sQQQ", b"pcrstore cache 1", KB // 2, 4 * KB, 0)
    (folder / "pcrstore-cache").write_bytes(ledger)
    ds.discard(at(0))
    assert counted(folder) >= on_disk(folder) == 3 * KB
    ds.put(at(4), body(4))  # counts again
    assert counted(folder) == on_disk(folder) == 4 * KB
    assert held(ds, 5) == [1, 2, 3, 4]


STATES = {
    "absent": b"",
    "cut": b"pcrstore cache 1\x00",
    "before-refused-was-counted": struct.pack("<16sQQ", b"pcrstore cache 1", 5 * KB, 6 * KB),
    "too-high": struct.pack("<16sQQQ", b"pcrstore cache 1", 2**62, 10 * KB, 0),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_counter_that_is_lost_or_wrong_is_counted_again(folder, state):
    ds = Cache(folder, limit=6 * KB).of(URL)
    for i in range(5):
        ds.put(at(i), body(i))
    (folder / "pcrstore-cache").write_bytes(state)
    ds.put(at(5), body(5))
    assert held(ds, 6) == list(range(6))
    assert counted(folder) == on_disk(folder) == 6 * KB


def test_files_removed_behind_its_back_are_counted_out(folder):
    ds = Cache(folder, limit=4 * KB).of(URL)
    for i in range(4):
        ds.put(at(i), body(i))
    for p in files(folder)[:3]:
        p.unlink()
    ds.put(at(4), body(4))
    assert len(files(folder)) == 2
    assert counted(folder) == on_disk(folder) == 2 * KB


def test_files_that_are_being_written_count(folder):
    ds = Cache(folder, limit=2 * KB).of(URL)
    ds.put(at(0), body(0))
    with temporary_of(folder, lock=True) as path:
        os.truncate(path, 2 * KB)
        (folder / "pcrstore-cache").write_bytes(b"")
        ds.put(at(1), body(1))
        assert held(ds, 2) == []  # no room beside it
        assert counted(folder) == on_disk(folder) == 2 * KB


def test_a_sweep_counts_what_is_being_written_in_full(folder, monkeypatch):
    ds = Cache(folder, limit=4 * KB).of(URL)
    ds.put(at(0), body(0))
    real = os.write

    def write(file, data):
        monkeypatch.setattr(os, "write", real)
        (folder / "pcrstore-cache").write_bytes(b"")
        ds.put(at(2), body(2))
        assert counted(folder) == 3 * KB
        return real(file, data)

    monkeypatch.setattr(os, "write", write)
    ds.put(at(1), body(1))
    assert held(ds, 3) == [0, 1, 2]
    assert counted(folder) == on_disk(folder) == 3 * KB


OPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "get", "discard", "age", "clear"]),
        st.integers(0, 12),
        st.integers(0, 1),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(OPS)
def test_the_count_is_what_is_there_after_every_step(tmp_path_factory, ops):
    folder = tmp_path_factory.mktemp("ops") / "cache"
    limits = (5_000, 9_000)
    caches = [Cache(folder, limit=limit) for limit in limits]
    for op, i, which in ops:
        ds = caches[which].of(URL if i % 3 else OTHER)
        wanted, right = at(i, 200 * i + 1), body(i, 200 * i + 1)
        if op == "put":
            is_new = ds.get(wanted) is None
            ds.put(wanted, right)
            is_kept = ds.get(wanted) is not None
            assert is_kept or is_new
            assert on_disk(folder) <= (limits[which] if is_new and is_kept else max(limits))
        elif op == "age":
            aged(folder, 100 * i)
        elif op == "get":
            assert ds.get(wanted) in (None, right)
        elif op == "discard":
            ds.discard(wanted)
            assert ds.get(wanted) is None
        else:
            caches[which].clear(URL if i % 2 else None)
        if files(folder):
            assert counted(folder) == on_disk(folder)


def test_a_fork_while_the_lock_is_held_does_not_keep_it(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    ds._cache.folder.lock_seconds = 0.2
    real, children = os.ftruncate, []

    def ftruncate(file, size):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        children.append(child)
        real(file, size)

    try:
        with monkeypatch.context() as m:
            m.setattr(os, "ftruncate", ftruncate)
            ds.put(at(1), body(1))
        ds.put(at(2), body(2))
        assert held(ds, 3) == [0, 1, 2]
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_stopped_process_that_holds_the_lock_stops_nobody(folder):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    ds._cache.folder.lock_seconds = 0.1
    with (folder / "pcrstore-cache").open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.warns(CacheWarning, match="another process holds its lock"):
            ds.put(at(1), body(1))
        assert held(ds, 2) == [0]
        ds.discard(at(0))  # a damaged body must not come back
        assert held(ds, 2) == []
    assert counted(folder) >= on_disk(folder)


def test_a_short_wait_for_the_lock_is_no_failure(folder):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    marker = (folder / "pcrstore-cache").open("rb")
    fcntl.flock(marker, fcntl.LOCK_EX)
    timer = threading.Timer(0.1, marker.close)
    timer.start()
    ds.put(at(1), body(1))
    timer.join()
    assert held(ds, 2) == [0, 1]


def test_a_folder_removed_while_a_writer_waits_for_its_lock_gets_nothing(folder):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    told = []
    with (folder / "pcrstore-cache").open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)

        def put():
            try:
                ds.put(at(1), body(1))
            except CacheWarning as e:
                told.append(str(e))

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(0.05)
        (folder / "pcrstore-cache").unlink()
    thread.join()
    assert len(told) == 1
    assert "its folder was removed" in told[0]
    assert on_disk(folder) == KB
