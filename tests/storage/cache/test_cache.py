"""A cache gives back what it was given, says what it holds, and never costs an error."""

import multiprocessing
import os
import pickle
import time
import warnings

import pytest
from cache_folders import (
    KB,
    OTHER,
    URL,
    Clock,
    aged,
    at,
    body,
    counted,
    failing,
    files,
    held,
    in_process,
    made,
    on_disk,
    with_file,
    with_mode,
)

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import OptionError, StoreError
from pcrstore.storage.cache.cache import PAUSE, Cache, CacheWarning


def test_a_body_comes_back_and_is_counted(folder):
    ds = Cache(folder).of(URL)
    assert ds.get(at(1)) is None
    ds.put(at(1), body(1))
    assert ds.get(at(1)) == body(1)
    assert (ds.n_hits, ds.hit_bytes) == (1, KB)
    assert counted(folder) == on_disk(folder) == KB


def test_another_process_object_and_range_see_their_own(folder):
    Cache(folder).of(URL).put(at(1), body(1))
    assert Cache(folder).of(URL).get(at(1)) == body(1)
    assert Cache(folder).of(OTHER).get(at(1)) is None
    for other in (at(2), ByteRange(at(1).name, 8, 8 + KB), ByteRange(at(1).name, 7, 6 + KB)):
        assert Cache(folder).of(URL).get(other) is None


def test_an_empty_range_needs_no_file(folder):
    ds = Cache(folder).of(URL)
    ds.put(ByteRange("a", 3, 3), b"")
    assert ds.get(ByteRange("a", 3, 3)) == b""
    assert not files(folder)
    assert ds.n_hits == 0


def test_a_body_of_another_length_is_refused(folder):
    with pytest.raises(OptionError, match="body must have 1000 bytes, got 999"):
        Cache(folder).of(URL).put(at(1), body(1)[1:])


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
    assert (ds.n_hits, ds.hit_bytes) == (0, 0)
    ds.put(at(1), body(1))
    ds.get(at(1))
    ds.discard(at(1))
    assert (ds.n_hits, ds.hit_bytes) == (1, KB)


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
