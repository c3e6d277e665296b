"""Caches for tests: bodies by number, what lies on the disk, calls that fail."""

import errno
import fcntl
import multiprocessing
import os
import random
import struct
import time
from contextlib import contextmanager

from pcrstore.core.ranges import ByteRange
from pcrstore.storage.cache.cache import Cache

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


def aged(folder, seconds):
    """Make every file that much older."""
    for p in files(folder):
        mtime = p.stat().st_mtime - seconds
        os.utime(p, (mtime, mtime))


def later(ds, seconds):
    """Let time pass: all that was is that much longer ago."""
    cache = ds._cache.folder
    aged(cache.path, seconds)
    cache.eviction.opened -= seconds


def held(ds, n, size=KB):
    """The bodies that a dataset's cache has; each is checked."""
    out = []
    for i in range(n):
        found = ds.get(at(i, size))
        assert found in (None, body(i, size))
        if found is not None:
            out.append(i)
    return out


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


def in_process(f, *args):
    """Run a function in a forked process; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=f, args=args)
    process.start()
    process.join(30)
    return process.exitcode


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
