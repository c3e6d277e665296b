import errno
import fcntl
import multiprocessing
import os
import pickle
import random
import resource
import signal
import struct
import threading
import time
import warnings
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import OptionError, StoreError
from pcrstore.storage.cache import folder as cache_folder
from pcrstore.storage.cache import ledger as cache_ledger
from pcrstore.storage.cache.cache import PAUSE, Cache, CacheWarning
from pcrstore.storage.cache.files import body_name, folder_name
from pcrstore.storage.cache.files import files as walk

URL = "s3://bucket/photos"
OTHER = "s3://bucket/others"
KB = 1000


def at(i, size=KB):
    """The range that body i fills."""
    return ByteRange(f"objects/{i:05d}", 7, 7 + size)


def body(i, size=KB):
    return random.Random(i).randbytes(size)  # noqa: S311 - any bytes


def files(folder):
    """Every file below the datasets' folders but the URLs: bodies and temporaries."""
    return [p for p in folder.glob("*/*/*") if p.is_file()]


def temporaries(folder):
    return [p for p in files(folder) if p.name.startswith("tmp-")]


def on_disk(folder):
    return sum(p.stat().st_size for p in files(folder))


def counted(folder):
    """What the shared counter says."""
    return struct.unpack("<16sQQQ", (folder / "pcrstore-cache").read_bytes())[1]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def aged(folder, seconds):
    """Make every file that much older."""
    for p in files(folder):
        mtime = p.stat().st_mtime - seconds
        os.utime(p, (mtime, mtime))


def later(ds, seconds):
    """Let time pass: all that was is that much longer ago."""
    cache = ds._cache.folder
    aged(cache.path, seconds)
    cache.since -= seconds


def held(ds, n, size=KB):
    """The bodies that a dataset's cache has; each is checked."""
    out = []
    for i in range(n):
        found = ds.get(at(i, size))
        assert found in (None, body(i, size))
        if found is not None:
            out.append(i)
    return out


# What it is


def test_a_body_comes_back_and_is_counted(folder):
    ds = Cache(folder).of(URL)
    assert ds.get(at(1)) is None
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)
    assert (ds.n_hits, ds.n_misses, ds.hit_bytes) == (1, 1, KB)
    assert counted(folder) == on_disk(folder) == KB


def test_another_process_object_and_range_see_their_own(folder):
    Cache(folder).of(URL).put(at(1), body(1))
    assert Cache(folder).of(URL).get(at(1)) == body(1)
    assert Cache(folder).of(OTHER).get(at(1)) is None
    for other in (at(2), ByteRange(at(1).name, 8, 8 + KB), ByteRange(at(1).name, 7, 6 + KB)):
        assert Cache(folder).of(URL).get(other) is None


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((URL, ByteRange("1 2", 3, 13)), (URL, ByteRange("2", 3, 13))),
        ((URL, ByteRange("a", 1, 11)), (URL, ByteRange("a", 11, 21))),
        ((URL, ByteRange("a", 1, 11)), (URL, ByteRange("a", 1, 12))),
        ((URL, ByteRange("b/a", 0, 10)), (f"{URL}/b", ByteRange("a", 0, 10))),
        ((f"{URL} 0", ByteRange("a", 0, 10)), (URL, ByteRange("0 a", 0, 10))),
        ((URL, ByteRange("\ud800", 0, 10)), (URL, ByteRange("?", 0, 10))),
    ],
)
def test_no_two_ranges_share_a_file(folder, one, two):
    cache = Cache(folder)
    cache.of(one[0]).put(one[1], b"0123456789")
    assert cache.of(two[0]).get(two[1]) is None
    assert cache.of(one[0]).get(one[1]) == b"0123456789"


def test_an_empty_range_needs_no_file(folder):
    ds = Cache(folder).of(URL)
    ds.put(ByteRange("a", 3, 3), b"")
    assert ds.get(ByteRange("a", 3, 3)) == b""
    assert not files(folder)
    assert (ds.n_hits, ds.n_misses) == (0, 0)


def test_a_body_of_another_length_is_refused(folder):
    with pytest.raises(OptionError, match="body must have 1000 bytes, got 999"):
        Cache(folder).of(URL).put(at(1), body(1)[1:])


def test_the_second_writer_of_a_body_changes_nothing(folder, monkeypatch):
    one, two = Cache(folder).of(URL), Cache(folder).of(URL)
    one.put(at(1), body(1))
    inode = files(folder)[0].stat().st_ino
    with Calls(monkeypatch) as calls:
        two.put(at(1), body(1))
    assert "write" not in calls.seen
    assert files(folder)[0].stat().st_ino == inode
    assert counted(folder) == on_disk(folder) == KB


def test_two_writers_at_once_count_a_body_once(folder, monkeypatch):
    one, two = Cache(folder).of(URL), Cache(folder).of(URL)
    real = os.write

    def write(file, data):
        monkeypatch.setattr(os, "write", real)
        two.put(at(1), body(1))
        return real(file, data)

    one.put(at(0), body(0))
    monkeypatch.setattr(os, "write", write)
    one.put(at(1), body(1))
    assert counted(folder) == on_disk(folder) == 2 * KB
    assert not temporaries(folder)
    assert held(one, 2) == [0, 1]


DAMAGE = {"shorter": -1, "longer": 1, "empty": -KB}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_file_of_another_length_is_a_miss_and_goes(folder, change):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    os.truncate(files(folder)[0], KB + change)
    assert ds.get(at(1)) is None
    assert not files(folder)
    assert (ds.n_hits, ds.n_misses, ds.hit_bytes) == (0, 1, 0)
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)


def test_a_file_cut_while_it_is_read_is_a_miss(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    real, left = os.read, [400, 0]
    monkeypatch.setattr(os, "read", lambda file, n: real(file, min(n, left.pop(0))))
    assert ds.get(at(1)) is None


def test_a_read_may_come_in_pieces(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    real = os.read
    monkeypatch.setattr(os, "read", lambda file, n: real(file, min(n, 300)))
    assert ds.get(at(1)) == body(1)


def test_a_write_may_go_in_pieces(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:300]))
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)


def test_a_damaged_body_is_dropped_once(folder):
    ds = Cache(folder).of(URL)
    for i in range(2):
        ds.put(at(i), body(i))
    ds.discard(at(1))
    assert held(ds, 2) == [0]
    assert counted(folder) == on_disk(folder) == KB
    ds.discard(at(1))  # another process was first
    assert counted(folder) == on_disk(folder) == KB


def test_hits_and_their_bytes_only_grow(folder):
    ds = Cache(folder).of(URL)
    for _ in range(3):  # damaged where it is stored: read, kept and discarded again and again
        assert ds.get(at(1)) is None
        ds.put(at(1), body(1))
        ds.discard(at(1))
        ds.discard(at(1))
    assert (ds.n_hits, ds.n_misses, ds.hit_bytes) == (0, 3, 0)
    ds.put(at(1), body(1))
    ds.get(at(1))
    ds.discard(at(1))
    assert (ds.n_hits, ds.n_misses, ds.hit_bytes) == (1, 3, KB)


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


def test_a_read_is_one_open_one_fstat_and_one_read(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    with Calls(monkeypatch) as calls:
        assert ds.get(at(1)) == body(1)
    assert calls.seen == ["open", "fstat", "read", "close"]
    with Calls(monkeypatch) as calls:
        assert ds.get(at(2)) is None
    assert calls.seen == ["open"]


# The limit


@pytest.mark.parametrize(("limit", "kept"), [(KB - 1, []), (KB, [0]), (KB + 1, [0])])
def test_a_body_is_stored_if_it_is_no_larger_than_the_limit(folder, limit, kept):
    ds = Cache(folder, limit=limit).of(URL)
    ds.put(at(0), body(0))
    assert held(ds, 1) == kept
    assert not temporaries(folder)


def test_a_body_larger_than_the_limit_drives_nothing_out(folder):
    ds = Cache(folder, limit=3 * KB).of(URL)
    for i in range(3):
        ds.put(at(i), body(i))
    ds.put(at(3, 3 * KB + 1), body(3, 3 * KB + 1))
    assert held(ds, 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (10 * KB + 1, list(range(10))),
        (10 * KB, list(range(10))),
        # 9 kB is less than what is there and the new one: down to 0.9 x 9,999 = 8,999, so 8 stay.
        (10 * KB - 1, [*range(2, 9), 9]),
    ],
)
def test_the_least_recently_used_make_room_at_the_limit(folder, limit, kept):
    ds = Cache(folder, limit=limit).of(URL)
    for i in range(10):
        aged(folder, 100)
        ds.put(at(i), body(i))
        assert counted(folder) == on_disk(folder) <= limit
    assert held(ds, 10) == kept


def test_a_sweep_goes_down_to_nine_tenths_once_a_tenth_was_refused(folder):
    ds, other = (Cache(folder, limit=100 * KB).of(URL) for _ in range(2))
    for i in range(100):
        ds.put(at(i), body(i))
    aged(folder, 100)
    for i in range(100, 109):
        ds.put(at(i), body(i))
    assert held(ds, 109) == list(range(100))
    aged(folder, 1000)
    other.put(at(109), body(109))  # refused by all processes
    assert len(files(folder)) == 90
    assert counted(folder) == on_disk(folder) == 90 * KB


@pytest.mark.parametrize("refused", [0, 9, 10, 50])
def test_what_was_refused_before_a_cache_was_opened_drives_nothing_out(folder, refused):
    ds = Cache(folder, limit=100 * KB).of(URL)
    for i in range(100):
        ds.put(at(i), body(i))
    with closing(cache_ledger.Ledger(folder)) as ledger, ledger.held():
        ledger.write(100 * KB, 100 * KB, refused * KB)
    aged(folder, 100)
    ds = Cache(folder, limit=100 * KB).of(URL)
    for i in range(100, 109):
        ds.put(at(i), body(i))
        assert len(files(folder)) == 100
    ds.put(at(109), body(109))
    assert len(files(folder)) == 90
    assert counted(folder) == on_disk(folder)


def test_a_count_of_what_was_refused_that_begins_anew_is_of_this_opening(folder):
    ds = Cache(folder, limit=100 * KB).of(URL)
    for i in range(100):
        ds.put(at(i), body(i))
    with closing(cache_ledger.Ledger(folder)) as ledger, ledger.held():
        ledger.write(100 * KB, 100 * KB, 50 * KB)
    aged(folder, 100)
    ds = Cache(folder, limit=100 * KB).of(URL)
    with closing(cache_ledger.Ledger(folder)) as ledger, ledger.held():
        ledger.write(100 * KB, 100 * KB, 0)  # another process looked, and found too little
    for i in range(100, 110):
        assert len(files(folder)) == 100
        ds.put(at(i), body(i))
    assert len(files(folder)) == 90


def test_a_hit_makes_a_body_recent(folder):
    ds = Cache(folder, limit=10 * KB).of(URL)
    for i in range(10):
        aged(folder, 100)
        ds.put(at(i), body(i))
    assert Cache(folder).of(URL).get(at(0))  # in another process
    ds.put(at(10), body(10))
    assert held(ds, 11) == [0, *range(3, 11)]


@pytest.mark.parametrize(("age", "touched"), [(30, False), (90, True), (-90, True)])
def test_a_hit_touches_a_file_once_a_minute(folder, age, touched):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    aged(folder, age)
    before = files(folder)[0].stat().st_mtime
    ds.get(at(1))
    after = files(folder)[0].stat().st_mtime
    assert (after != before) == touched
    assert not touched or abs(time.time() - after) < 20


def an_epoch(ds, order, seconds=3600):
    """Read as a job does, once and in an order, for so long; return the share that was found."""
    n_hits = ds.n_hits
    for n, i in enumerate(order):
        if n % 10 == 0:
            later(ds, seconds * 10 / len(order))
        if ds.get(at(i)) is None:
            ds.put(at(i), body(i))
    return (ds.n_hits - n_hits) / len(order)


def shuffled(n, seed):
    return random.Random(seed).sample(range(n), n)  # noqa: S311 - an order


@pytest.mark.parametrize("others", [0, 20_000], ids=["empty", "full-of-others"])
@pytest.mark.parametrize("times", [2, 4])
def test_epochs_larger_than_the_limit_find_the_share_that_the_limit_is(folder, times, others):
    n = 200
    limit = n * KB // times
    old = Cache(folder, limit=limit).of(OTHER)
    for i in range(n // times if others else 0):
        old.put(at(i), body(i))
    aged(folder, others)
    ds = Cache(folder, limit=limit).of(URL)
    shares = [an_epoch(ds, shuffled(n, epoch)) for epoch in range(4)]
    assert shares[0] == 0
    assert all(0.9 / times <= found <= 1 / times for found in shares[1:])
    assert counted(folder) == on_disk(folder) <= limit


@pytest.mark.parametrize("away", [0, 10**6])
def test_a_job_that_is_started_again_finds_its_share_in_the_first_epoch(folder, away):
    ds = Cache(folder, limit=100 * KB).of(URL)
    an_epoch(ds, shuffled(200, 0))
    an_epoch(ds, shuffled(200, 1))
    aged(folder, away)
    ds = Cache(folder, limit=100 * KB).of(URL)
    shares = [an_epoch(ds, shuffled(200, epoch)) for epoch in (2, 3)]
    assert all(0.45 <= found <= 0.5 for found in shares)


def test_a_job_that_is_started_again_takes_the_place_of_others_in_some_epochs(folder, monkeypatch):
    monkeypatch.setattr(cache_folder, "_FADE", 0.98)  # the hits are few
    cache = Cache(folder, limit=100 * KB)
    for i in range(100):
        cache.of(URL if i % 2 else OTHER).put(at(i), body(i))
    aged(folder, 50_000)
    ds = Cache(folder, limit=100 * KB).of(URL)
    shares = [an_epoch(ds, shuffled(200, epoch)) for epoch in range(6)]
    assert 0.2 <= shares[0] <= 0.25
    assert 0.45 <= shares[-1] <= 0.5


def test_a_job_whose_limit_is_no_smaller_than_its_data_finds_all(folder):
    ds = Cache(folder, limit=100 * KB).of(URL)
    shares = [an_epoch(ds, shuffled(100, epoch)) for epoch in range(3)]
    assert shares == [0, 1, 1]


def test_what_others_left_while_a_job_runs_goes_after_two_of_its_epochs(folder):
    ds = Cache(folder, limit=100 * KB).of(URL)
    an_epoch(ds, shuffled(200, 0)[:100])
    for i in range(50):
        ds.discard(at(shuffled(200, 0)[i]))
        ds._cache.of(OTHER).put(at(i), body(i))
    shares = [an_epoch(ds, shuffled(200, epoch)) for epoch in range(1, 8)]
    assert shares[0] <= 0.25
    assert all(0.45 <= found <= 0.5 for found in shares[-2:])


@pytest.mark.parametrize(
    ("gap", "age", "goes"),
    [
        (500, 950, False),
        (500, 1050, True),
        (70, 130, False),
        (70, 150, True),
        # Gaps of under a minute say nothing, then what was used before it was opened goes.
        (50, 10_000, False),
        (None, 10_000, False),
        (None, None, True),
    ],
)
def test_what_is_not_used_for_twice_the_longest_gap_goes(folder, gap, age, goes):
    Cache(folder).of(URL).put(at(0), body(0))
    aged(folder, 10 if age is None else 0)
    ds = Cache(folder, limit=2 * KB).of(URL)
    ds._cache.folder.since -= 1  # the clock of a file system is milliseconds late
    if age is not None:
        later(ds, age - (gap or 0))
    ds.put(at(1), body(1))
    if gap is not None:
        later(ds, gap)
        ds.get(at(1))
    ds.put(at(2), body(2))
    assert held(ds, 3) == ([1, 2] if goes else [0, 1])


def test_a_long_gap_is_forgotten(folder, monkeypatch):
    monkeypatch.setattr(cache_folder, "_FADE", 0.9)
    ds = Cache(folder, limit=3 * KB).of(URL)
    ds.put(at(0), body(0))
    later(ds, 260_000)
    ds.get(at(0))
    ds.put(at(1), body(1))
    ds.put(at(2), body(2))
    for hits, kept in ((20, [0, 1, 2]), (40, [0, 2, 3])):
        for _ in range(hits):
            later(ds, 100)
            ds.get(at(0))
            ds.get(at(2))
        ds.put(at(3), body(3))
        assert held(ds, 4) == kept


def test_eviction_goes_across_datasets(folder):
    cache = Cache(folder, limit=10 * KB)
    for i in range(10):
        aged(folder, 100)
        cache.of(URL if i < 2 else OTHER).put(at(i), body(i))
    cache.of(OTHER).put(at(10), body(10))
    assert held(cache.of(URL), 2) == []
    assert held(cache.of(OTHER), 11) == list(range(2, 11))
    assert [d.url for d in cache.usage().datasets] == [OTHER]
    assert len([p for p in folder.iterdir() if p.is_dir()]) == 1  # the empty one is gone


def test_a_file_that_is_being_read_stays_readable(folder, monkeypatch):
    ds = Cache(folder, limit=KB).of(URL)
    ds.put(at(0), body(0))
    aged(folder, 10)
    real = os.fstat

    def fstat(file):
        monkeypatch.setattr(os, "fstat", real)
        ds.put(at(1), body(1))
        return real(file)

    monkeypatch.setattr(os, "fstat", fstat)
    assert ds.get(at(0)) == body(0)
    assert held(ds, 2) == [1]


def test_a_smaller_limit_takes_effect_at_the_next_write(folder):
    ds = Cache(folder, limit=10 * KB).of(URL)
    for i in range(10):
        ds.put(at(i), body(i))
    small = Cache(folder, limit=3 * KB).of(URL)
    assert len(files(folder)) == 10
    small.put(at(10), body(10))
    assert counted(folder) == on_disk(folder) == 2 * KB


def test_a_smaller_limit_is_kept_to_even_if_all_is_in_use(folder):
    small = Cache(folder, limit=3 * KB).of(URL)
    small._cache.folder.since -= 1
    ds = Cache(folder, limit=10 * KB).of(URL)
    for i in range(10):
        ds.put(at(i), body(i))
    small.put(at(10), body(10))
    assert counted(folder) == on_disk(folder) == 3 * KB
    assert small.get(at(10)) is None


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


def test_a_folder_removed_behind_its_back_is_made_again(folder, tmp_path):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    folder.rename(tmp_path / "gone")
    assert ds.get(at(1)) is None
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)
    assert folder.stat().st_mode & 0o777 == 0o700


@contextmanager
def temporary_of(folder, *, age=0, lock=False):
    """A temporary of another process, of 1 kB."""
    path = files(folder)[0].with_name(f"tmp-1-{'0' * 32}")
    path.write_bytes(bytes(KB))
    os.utime(path, (time.time() - age,) * 2)
    with path.open("rb") as file:
        if lock:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield path


@pytest.mark.parametrize(
    ("age", "lock", "stays"),
    [(0, True, True), (3500, True, True), (3700, True, False), (0, False, False)],
    ids=["living", "living-long", "too-old", "its-writer-died"],
)
def test_a_sweep_takes_temporaries_that_were_left_behind(folder, age, lock, stays):
    ds = Cache(folder, limit=3 * KB).of(URL)
    ds.put(at(0), body(0))
    with temporary_of(folder, age=age, lock=lock) as path:
        ds.put(at(1), body(1))
        assert path.exists()  # no sweep was needed
        ds.put(at(2), body(2))
        ds.put(at(3), body(3))
        assert path.exists() == stays
        assert counted(folder) == on_disk(folder) <= 3 * KB


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


def test_a_writer_whose_temporary_was_swept_stores_nothing(folder, monkeypatch):
    clock = Clock()
    ds = Cache(folder, limit=3 * KB, clock=clock).of(URL)
    ds.put(at(0), body(0))
    real = os.write

    def write(file, data):
        temporaries(folder)[0].unlink()
        (folder / "pcrstore-cache").write_bytes(b"")
        return real(file, data)

    with monkeypatch.context() as m:
        m.setattr(os, "write", write)
        with pytest.warns(CacheWarning):
            ds.put(at(1), body(1))
    clock.now += PAUSE
    ds.put(at(2), body(2))
    assert counted(folder) == on_disk(folder) == 2 * KB
    assert held(ds, 3) == [0, 2]


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


# Processes


def in_process(f, *args):
    """Run a function in a forked process; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=f, args=args)
    process.start()
    process.join(30)
    return process.exitcode


def test_a_pickled_cache_is_the_same_folder_and_limit(folder):
    cache = Cache(folder, limit="12kb", clock=Clock())
    ds = cache.of(URL)
    ds.put(at(1), body(1))
    again, part = pickle.loads(pickle.dumps((cache, ds)))  # noqa: S301 - our own
    assert repr(again) == repr(cache) == f"Cache({str(folder)!r}, limit=12000)"
    assert part.get(at(1)) == body(1)
    assert (part.n_hits, ds.n_hits) == (1, 0)
    assert not again.is_paused()


def use(ds):
    assert ds.get(at(1)) == body(1)
    ds.put(at(2), body(2))
    assert ds.get(at(2)) == body(2)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_it_works_in_worker_processes(folder, method):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    process = multiprocessing.get_context(method).Process(target=use, args=(ds,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert ds.get(at(2)) == body(2)


def test_a_fork_while_the_lock_is_held_does_not_keep_it(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    monkeypatch.setattr(cache_ledger, "_LOCK_SECONDS", 0.2)
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


def test_a_stopped_process_that_holds_the_lock_stops_nobody(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    monkeypatch.setattr(cache_ledger, "_LOCK_SECONDS", 0.1)
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


def test_threads_share_it(folder):
    ds = Cache(folder, limit=40 * KB).of(URL)
    wrong = []

    def run(seed):
        pick = random.Random(seed)  # noqa: S311 - which bodies
        for _ in range(150):
            i = pick.randrange(80)
            found = ds.get(at(i))
            if found is None:
                ds.put(at(i), body(i))
            elif found != body(i):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert ds.n_hits + ds.n_misses == 900
    assert ds.hit_bytes == ds.n_hits * KB
    assert counted(folder) == on_disk(folder) <= 40 * KB
    assert not temporaries(folder)


def read_and_write(folder, seed, n, limit):
    ds = Cache(folder, limit=limit).of(URL)
    pick = random.Random(seed)  # noqa: S311 - which bodies
    for _ in range(n):
        i = pick.randrange(60)
        size = 100 + 37 * i
        found = ds.get(at(i, size))
        if found is None:
            ds.put(at(i, size), body(i, size))
        elif found != body(i, size):
            os._exit(3)


def locked_sizes(folder):
    """What is there while nobody changes it, and what the counter says."""
    with (folder / "pcrstore-cache").open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        return on_disk(folder), counted(folder)


@pytest.mark.slow
def test_processes_that_are_killed_leave_a_sound_cache(folder):
    """Four processes at half of the data; two of them are killed, again and again."""
    sizes = [100 + 37 * i for i in range(60)]
    limit = sum(sizes) // 2
    Cache(folder, limit=limit).of(URL).put(at(0, 100), body(0, 100))
    pick = random.Random(0)  # noqa: S311 - when
    fork = multiprocessing.get_context("fork")
    for turn in range(5):
        running = [
            fork.Process(target=read_and_write, args=(folder, 10 * turn + p, 400, limit))
            for p in range(4)
        ]
        for process in running:
            process.start()
        for process in running[:2]:
            time.sleep(pick.uniform(0.01, 0.08))
            there, count = locked_sizes(folder)
            assert there <= count <= limit
            process.kill()
        for process in running:
            process.join(60)
        assert [p.exitcode for p in running[2:]] == [0, 0]
        there, count = locked_sizes(folder)
        assert there <= count <= limit
    ds = Cache(folder, limit=limit).of(URL)
    for i in [*range(60), *range(60)]:
        aged(folder, 100)
        ds.put(at(i, sizes[i]), body(i, sizes[i]))
    for i, size in enumerate(sizes):
        assert ds.get(at(i, size)) in (None, body(i, size))
    assert ds.n_hits > 10
    assert counted(folder) == on_disk(folder) <= limit
    assert not temporaries(folder)


def read_checked(folder, seed, n, limit):
    """Read as a reader does: what is wrong is discarded and kept anew."""
    ds = Cache(folder, limit=limit).of(URL)
    pick = random.Random(seed)  # noqa: S311 - which bodies
    for _ in range(n):
        i = pick.randrange(30)
        found = ds.get(at(i))
        if found not in (None, body(i)):
            assert len(found) == KB
            ds.discard(at(i))
            found = None
        if found is None:
            ds.put(at(i), body(i))


def damage(path, kind):
    """Change a file; it may go meanwhile."""
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        if kind == "gone":
            path.unlink()
        elif kind in {"cut", "grown"}:
            os.truncate(path, size // 2 if kind == "cut" else 3 * size)
        else:
            file = os.open(path, os.O_WRONLY)
            os.pwrite(file, bytes(size) if kind == "zero" else b"\xff\x00", size // 2)
            os.close(file)


def test_files_damaged_while_processes_read_are_replaced(folder):
    limit = 20 * KB
    read_checked(folder, 0, 60, limit)
    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=read_checked, args=(folder, s, 300, limit)) for s in (1, 2, 3)]
    for process in running:
        process.start()
    pick = random.Random(0)  # noqa: S311 - what to damage
    for n in range(100):
        if found := [file for file in walk(folder) if file.is_body]:
            kind = ("flip", "cut", "grown", "zero", "gone")[n % 5]
            damage(Path(pick.choice(found).path), kind)
        time.sleep(0.001)
    for process in running:
        process.join(30)
    assert [process.exitcode for process in running] == [0, 0, 0]
    ds = Cache(folder, limit=limit).of(URL)
    for i in range(30):
        if ds.get(at(i)) not in (None, body(i)):
            ds.discard(at(i))
    assert on_disk(folder) <= counted(folder)
    aged(folder, 100)
    for i in range(30, 80):
        ds.put(at(i), body(i))
        assert on_disk(folder) <= counted(folder)
    assert counted(folder) == on_disk(folder) <= limit
    assert len(held(ds, 80)) >= 18


# Failing disks


@pytest.mark.parametrize("call", ["write", "read"])
def test_a_disk_that_is_slow_for_one_holds_up_no_other(folder, monkeypatch, call):
    ds = Cache(folder).of(URL)
    ds.put(at(0), body(0))
    waits, goes_on = threading.Event(), threading.Event()
    act = {"write": lambda: ds.put(at(1), body(1)), "read": lambda: ds.get(at(0))}
    thread = threading.Thread(target=act[call])
    real = getattr(os, call)

    def slow(*args):
        if threading.current_thread() is thread:
            waits.set()
            assert goes_on.wait(30)
        return real(*args)

    monkeypatch.setattr(os, call, slow)
    thread.start()
    assert waits.wait(30)
    ds.put(at(2), body(2))
    assert held(ds, 3) == [0, 2]
    goes_on.set()
    thread.join()
    assert held(ds, 3) == ([0, 1, 2] if call == "write" else [0, 2])


WATCHED = [
    *((os, name) for name in ("open", "close", "read", "write", "pread", "pwrite", "fstat")),
    *((os, name) for name in ("stat", "mkdir", "rmdir", "rename", "replace", "unlink", "link")),
    *((os, name) for name in ("scandir", "listdir", "utime", "ftruncate")),
    (fcntl, "flock"),
]
"""Every call to the system that the cache makes (pathlib makes them through `os` too)."""


class Calls:
    """Watches calls to the system; call number `fail_at` does not happen, or `then` does."""

    def __init__(self, monkeypatch, fail_at=None, then=None, *, forever=False):
        self.seen = []
        self.fail_at = fail_at
        self.then = then
        self.forever = forever
        self._patch = monkeypatch
        self._context = None

    def __enter__(self):
        self._context = self._patch.context()
        m = self._context.__enter__()
        for module, name in WATCHED:
            m.setattr(module, name, self._watched(name, getattr(module, name)))
        return self

    def __exit__(self, *e):
        self._context.__exit__(*e)

    def _watched(self, name, real):
        def call(*args, **kwargs):
            n = len(self.seen)
            self.seen.append(name)
            due = self.fail_at is not None and (
                n >= self.fail_at if self.forever else n == self.fail_at
            )
            if due and not (self.forever and name in ("unlink", "close")):
                if name == "close":
                    real(*args, **kwargs)
                self.then()
            return real(*args, **kwargs)

        return call


ERRNOS = ["ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "EACCES", "EIO", "ENOLCK"]


def failing(name):
    def fail():
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    return fail


def made(folder, clock, n, limit):
    ds = Cache(folder, limit=limit, clock=clock).of(URL)
    for i in range(n):
        aged(folder, 100)
        ds.put(at(i), body(i))
    return ds


def put_twice(ds):
    """Write a body, and make room for it where the limit asks for that."""
    ds.put(at(20), body(20))


def read_and_drop(ds):
    """Read an old body, a cut one, one that is not there; drop one."""
    for i in (0, 1, 2, 30):
        assert ds.get(at(i)) in (None, body(i))
    ds.discard(at(2))


def cut(folder):
    os.truncate(folder / body_name(folder_name(URL), at(1)), 10)


SCENES = {
    "first": (0, 10 * KB, put_twice),
    "another": (3, 10 * KB, put_twice),
    "sweep": (4, 4 * KB, put_twice),
    "read": (4, 10 * KB, read_and_drop),
}
"""Bodies that are there, the limit, and what is done when the disk fails."""


def scene(folder, name, clock):
    n, limit, act = SCENES[name]
    ds = made(folder, clock, n, limit)
    if name == "read":
        cut(folder)
        aged(folder, 100)
    return ds, act


def steps(tmp_path, monkeypatch, name):
    """How many calls a scene makes when nothing fails."""
    ds, act = scene(tmp_path / "all", name, Clock())
    with Calls(monkeypatch) as calls:
        act(ds)
    assert len(calls.seen) > 12
    return len(calls.seen)


@pytest.mark.parametrize(
    ("code", "forever"), [*((code, False) for code in ERRNOS), ("ENOSPC", True), ("EMFILE", True)]
)
@pytest.mark.parametrize("name", SCENES)
def test_a_disk_that_fails_at_any_step_costs_a_warning(tmp_path, monkeypatch, name, code, forever):
    for n in range(steps(tmp_path, monkeypatch, name)):
        folder, clock = tmp_path / f"{n}", Clock()
        ds, act = scene(folder, name, clock)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with Calls(monkeypatch, n, failing(code), forever=forever) as calls:
                act(ds)
        assert len(told) <= 1
        assert all(w.category is CacheWarning for w in told)
        left = on_disk(folder)
        at_n = calls.seen[n]
        assert not temporaries(folder) or at_n == "unlink", at_n
        assert left <= SCENES[name][1]
        if told:
            assert ds._cache.is_paused()
            assert os.strerror(getattr(errno, code)) in str(told[0].message)
        if left and (folder / "pcrstore-cache").stat().st_size:
            assert counted(folder) >= left, at_n
        clock.now += PAUSE
        ds.put(at(21), body(21))
        assert ds.get(at(21)) == body(21)
        assert counted(folder) >= on_disk(folder)
        assert on_disk(folder) <= SCENES[name][1]


@pytest.mark.parametrize("name", SCENES)
def test_a_process_killed_at_any_step_leaves_a_sound_cache(tmp_path, monkeypatch, name):
    for n in range(steps(tmp_path, monkeypatch, name)):
        folder = tmp_path / f"{n}"
        ds, act = scene(folder, name, Clock())
        before = counted(folder) if name != "first" else 0

        def die(ds=ds, act=act, n=n):
            with Calls(monkeypatch, n, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                act(ds)

        assert in_process(die) == -signal.SIGKILL
        limit = SCENES[name][1]
        if (folder / "pcrstore-cache").stat().st_size:
            # The file that was cut counts as it was.
            assert on_disk(folder) <= counted(folder) <= max(limit, before)
        for i in range(40, 55):
            aged(folder, 100)
            ds.put(at(i), body(i))
            assert ds.get(at(i)) == body(i)
            assert on_disk(folder) <= counted(folder) <= limit
        assert counted(folder) == on_disk(folder)  # the sweep counted again
        assert not temporaries(folder)


def test_writing_pauses_for_a_minute_and_reading_does_not(folder, monkeypatch):
    clock = Clock()
    ds = made(folder, clock, 1, 10 * KB)
    with monkeypatch.context() as m, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        m.setattr(os, "write", lambda *_: failing("ENOSPC")())
        ds.put(at(1), body(1))
        ds.put(at(2), body(2))
        clock.now += PAUSE
        ds.put(at(2), body(2))  # tried, and fails without a word
    (message,) = [str(w.message) for w in told]
    assert message == (
        f"cache {folder} cannot be used: No space left on device; reading goes on without it, "
        "next try in 60 seconds"
    )
    assert held(ds, 3) == [0]
    for seconds, stored in ((PAUSE - 0.1, [0]), (0.1, [0, 1])):
        clock.now += seconds
        ds.put(at(1), body(1))
        assert held(ds, 3) == stored


def test_a_second_process_warns_too(folder, monkeypatch):
    clock = Clock()
    ds = made(folder, clock, 1, 10 * KB)
    monkeypatch.setattr(os, "write", lambda *_: failing("ENOSPC")())

    def warned():
        clock.now += PAUSE
        with pytest.warns(CacheWarning):
            ds.put(at(1), body(1))

    warned()
    assert in_process(warned) == 0


def test_a_folder_that_cannot_be_made_costs_a_warning(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(CacheWarning, match="cannot be used"):
        ds = Cache(tmp_path / "file" / "cache").of(URL)
    ds.put(at(1), body(1))
    assert ds.get(at(1)) is None


def limited(folder, kind, value):
    """Write under a limit of the kernel's own; exit 0 if that costs a warning and no error."""
    clock = Clock()
    ds = made(folder, clock, 1, 10_000 * KB)
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ds.put(at(1, 400 * KB), body(1, 400 * KB))
    resource.setrlimit(kind, (soft, hard))
    clock.now += PAUSE
    assert [w.category for w in told] == [CacheWarning]
    assert not temporaries(folder)
    assert counted(folder) == on_disk(folder) == KB
    ds.put(at(1), body(1))
    assert held(ds, 2) == [0, 1]


@pytest.mark.parametrize("kind", ["RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_limits_of_the_kernel_are_no_errors(folder, kind):
    value = 100 * KB if kind == "RLIMIT_FSIZE" else 3
    assert in_process(limited, folder, getattr(resource, kind), value) == 0


# Whose folder it is


def test_everything_is_for_this_user_alone(folder):
    before = os.umask(0)
    try:
        Cache(folder).of(URL).put(at(1), body(1))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {p.stat().st_mode & 0o777 for p in folder.rglob("*")}
    assert modes == {0o700, 0o600}


def test_names_are_hashes_and_tell_nothing(folder):
    Cache(folder).of(URL).put(ByteRange("objects/../../secret", 0, 3), b"abc")
    names = {p.name for p in folder.rglob("*")} - {"pcrstore-cache", "url"}
    assert all(set(name) <= set("0123456789abcdef") for name in names)
    assert [p.read_text() for p in folder.glob("*/url")] == [URL]


def linked(folder):
    folder.with_name("real").mkdir(mode=0o700)
    folder.symlink_to("real")


def with_mode(mode):
    def make(folder):
        folder.mkdir()
        folder.chmod(mode)

    return make


def with_file(folder):
    folder.mkdir(mode=0o700)
    (folder / "thesis.tex").write_text("42")


def other_marker(folder):
    folder.mkdir(mode=0o700)
    (folder / "pcrstore-cache").write_text("pcrstore cache 2 and more")


BAD = {
    "link": (linked, "must be a folder itself, got a link"),
    "file": (lambda f: f.write_text("x"), "must be a folder, got a file"),
    "group-writes": (with_mode(0o720), "must not be writable by others, its mode is 0720"),
    "others-write": (with_mode(0o702), "must not be writable by others, its mode is 0702"),
    "sticky": (with_mode(0o1777), "must not be writable by others, its mode is 1777"),
    "somebody's-files": (with_file, "must be empty or a cache already, but it holds 'thesis.tex'"),
    "newer": (other_marker, "not of a cache that this release knows"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_a_folder_that_is_not_safe_is_refused(folder, make, message):
    make(folder)
    before = sorted(folder.parent.rglob("*"))
    for path in (folder, f"{folder}/"):
        with pytest.raises(OptionError, match=message):
            Cache(path)
    assert sorted(folder.parent.rglob("*")) == before


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    Cache(folder)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OptionError, match=r"must belong to this user \(12345\)"):
        Cache(folder)


FINE = {
    "empty": with_mode(0o700),
    "readable": with_mode(0o755),
    "own-file-system": lambda f: (f / "lost+found").mkdir(parents=True),
}


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_a_folder_that_is_safe_is_taken(folder, make):
    make(folder)
    folder.chmod(folder.stat().st_mode & ~0o022)
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)


def test_a_folder_that_turned_unsafe_is_not_written_to(folder, tmp_path):
    ds = Cache(folder).of(URL)
    folder.rename(tmp_path / "gone")
    linked(folder)
    with pytest.warns(CacheWarning, match="got a link"):
        ds.put(at(1), body(1))
    assert ds.get(at(1)) is None
    assert not list((tmp_path / "real").iterdir())


class BytesPath:
    """A path object that is of bytes."""

    def __fspath__(self):
        return b"/x"

    def __repr__(self):
        return "BytesPath()"


@pytest.mark.parametrize(
    "given_folder",
    ["", "~/cache", "s3://bucket/cache", "a\0b", 1, b"x", None, ["x"], BytesPath()],
    ids=repr,
)
def test_what_is_no_folder_is_refused(given_folder):
    with pytest.raises(OptionError, match="must be a folder on this machine"):
        Cache(given_folder)
    with pytest.raises(OptionError, match="must be a folder on this machine"):
        Cache.existing(given_folder)


def test_no_limit_is_refused(folder):
    with pytest.raises(OptionError, match="size must be"):
        Cache(folder, limit="lots")


@pytest.mark.parametrize("what", ["body", "dataset", "marker"])
def test_links_are_not_followed(folder, tmp_path, what):
    ds = made(folder, Clock(), 1, 10 * KB)
    secret = tmp_path / "secret"
    if what == "dataset":
        path = next(p for p in folder.iterdir() if p.is_dir())
        secret.mkdir()
        (secret / "3f").mkdir()
        (secret / "3f" / ("a" * 38)).write_bytes(body(0))
        path.rename(tmp_path / "away")
    else:
        path = files(folder)[0] if what == "body" else folder / "pcrstore-cache"
        secret.write_bytes(body(0))
        path.unlink()
    path.symlink_to(secret)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ds.get(at(0)) is None or what == "marker"
        ds.put(at(1), body(1))
        if what == "marker":
            with pytest.raises(StoreError):
                ds._cache.clear()
        else:
            ds._cache.clear()
    assert (secret / "3f" / ("a" * 38) if what == "dataset" else secret).read_bytes() == body(0)


# Usage and clear


def test_usage_tells_of_every_dataset(folder):
    cache = Cache(folder, limit="1mb")
    for i in range(3):
        cache.of(URL).put(at(i), body(i))
    aged(folder, 500)
    cache.of(URL).put(at(3), body(3))
    aged(folder, 1000)
    cache.of(OTHER).put(at(0, 5 * KB), body(0, 5 * KB))
    used = cache.usage()
    assert (used.n_entries, used.n_bytes, used.limit) == (5, 9 * KB, 10**6)
    other, photos = used.datasets
    assert (other.url, other.n_entries, other.n_bytes) == (OTHER, 1, 5 * KB)
    assert (photos.url, photos.n_entries, photos.n_bytes) == (URL, 4, 4 * KB)
    now = time.time()
    assert now - photos.oldest == pytest.approx(1500, abs=20)
    assert now - photos.newest == pytest.approx(1000, abs=20)
    assert now - other.newest == pytest.approx(0, abs=20)


def test_a_url_that_was_lost_is_written_again(folder):
    cache = Cache(folder)
    cache.of(URL).put(at(0), body(0))
    url = next(folder.glob("*/url"))
    url.write_bytes(b"")
    assert [d.url for d in cache.usage().datasets] == [None]
    for i in range(1, 20):  # the first that needs another folder
        cache.of(URL).put(at(i), body(i))
    assert [d.url for d in cache.usage().datasets] == [URL]


@pytest.mark.parametrize(
    ("url", "n_gone", "left"), [(None, 5, []), (URL, 3, [OTHER]), ("s3://b/none", 0, [URL, OTHER])]
)
def test_clear_removes_all_or_one_dataset(folder, url, n_gone, left):
    cache = Cache(folder)
    for i in range(5):
        cache.of(URL if i < 3 else OTHER).put(at(i), body(i))
    gone = cache.clear(url)
    assert (gone.n_entries, gone.n_bytes) == (n_gone, n_gone * KB)
    assert {d.url for d in gone.datasets} == {URL, OTHER} - set(left)
    assert {d.url for d in cache.usage().datasets} == set(left)
    assert counted(folder) == on_disk(folder) == (5 - n_gone) * KB
    assert len([p for p in folder.iterdir() if p.is_dir()]) == len(left)
    cache.of(URL).put(at(0), body(0))
    assert cache.of(URL).get(at(0)) == body(0)


def test_clear_leaves_what_is_being_written_and_what_is_not_ours(folder):
    cache = Cache(folder)
    cache.of(URL).put(at(0), body(0))
    dataset = next(p for p in folder.iterdir() if p.is_dir())
    fan = files(folder)[0].parent
    own = [
        folder / "notes.txt",
        dataset / "notes.txt",
        fan / "notes.txt",
        fan / ("a" * 37),
        fan / ("A" * 38),
        fan / "tmp-1-x",
    ]
    for path in own:
        path.write_text("mine")
    (fan / ("b" * 38)).symlink_to(own[0])
    (folder / ("z" * 32) / "3f").mkdir(parents=True)
    own.append(folder / ("z" * 32) / "3f" / ("c" * 38))
    own[-1].write_text("mine")
    with temporary_of(folder, lock=True) as living:
        assert cache.clear().n_entries == 1
        assert living.exists()
    assert counted(folder) == KB
    assert [p.read_text() for p in own] == ["mine"] * len(own)
    assert cache.clear().n_entries == 0
    assert not living.exists()
    assert counted(folder) == 0


def test_the_limit_of_an_existing_cache_is_the_one_it_was_written_with(folder):
    Cache(folder, limit="7kb")
    assert Cache.existing(folder).usage().limit == 10**10
    Cache(folder, limit="7kb").of(URL).put(at(0), body(0))
    assert Cache.existing(folder).usage().limit == 7 * KB


@pytest.mark.parametrize("make", [None, with_mode(0o700), with_file], ids=["none", "empty", "file"])
def test_what_is_no_cache_is_not_made_one(folder, make):
    if make is not None:
        make(folder)
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(OptionError, match="is not a pcrstore cache"):
        Cache.existing(folder)
    assert sorted(folder.parent.rglob("*")) == before


def test_a_failing_disk_is_an_error_where_people_ask(folder, monkeypatch):
    cache = made(folder, Clock(), 1, 10 * KB)._cache
    monkeypatch.setattr(os, "scandir", lambda *_: failing("EIO")())
    for ask in (cache.usage, cache.clear):
        with pytest.raises(StoreError, match="Input/output error"):
            ask()
