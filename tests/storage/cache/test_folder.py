"""Files of the cache: whole or not at all, among processes, in a folder that is safe."""

import fcntl
import multiprocessing
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cache_folders import (
    KB,
    URL,
    Calls,
    Clock,
    aged,
    at,
    body,
    counted,
    files,
    held,
    linked,
    on_disk,
    temporaries,
    with_file,
    with_mode,
)

from pcrstore.errors import OptionError
from pcrstore.storage.cache.cache import PAUSE, Cache, CacheWarning
from pcrstore.storage.cache.files import files as walk


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
    assert (ds.n_hits, ds.hit_bytes) == (0, 0)
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


def test_a_read_is_one_open_one_fstat_and_one_read(folder, monkeypatch):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    with Calls(monkeypatch) as calls:
        assert ds.get(at(1)) == body(1)
    assert calls.seen == ["open", "fstat", "read", "close"]
    with Calls(monkeypatch) as calls:
        assert ds.get(at(2)) is None
    assert calls.seen == ["open"]


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


def test_a_folder_removed_behind_its_back_is_made_again(folder, tmp_path):
    ds = Cache(folder).of(URL)
    ds.put(at(1), body(1))
    folder.rename(tmp_path / "gone")
    assert ds.get(at(1)) is None
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)
    assert folder.stat().st_mode & 0o777 == 0o700


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


def test_threads_share_it(folder):
    ds = Cache(folder, limit=40 * KB).of(URL)
    hits, wrong = [], []

    def run(seed):
        pick = random.Random(seed)  # noqa: S311 - which bodies
        for _ in range(150):
            i = pick.randrange(80)
            found = ds.get(at(i))
            if found is None:
                ds.put(at(i), body(i))
                continue
            hits.append(i)
            if found != body(i):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert ds.n_hits == len(hits) > 0
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


def test_everything_is_for_this_user_alone(folder):
    before = os.umask(0)
    try:
        Cache(folder).of(URL).put(at(1), body(1))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {p.stat().st_mode & 0o777 for p in folder.rglob("*")}
    assert modes == {0o700, 0o600}


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
