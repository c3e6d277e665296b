"""A disk that fails, and a process that is killed, at any step."""

import errno
import os
import resource
import signal
import threading
import warnings

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
    failing,
    held,
    in_process,
    made,
    on_disk,
    temporaries,
)

from pcrstore.storage.cache.cache import PAUSE, Cache, CacheWarning
from pcrstore.storage.cache.files import body_name, folder_name


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


ERRNOS = ["ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "EACCES", "EIO", "ENOLCK"]


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
