"""The limit is kept, and only entries that nobody reads any more make room."""

import random
import time
from contextlib import closing

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
    later,
    on_disk,
    temporaries,
)

from pcrstore.storage.cache import ledger as cache_ledger
from pcrstore.storage.cache.cache import Cache


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


def test_a_job_that_is_started_again_takes_the_place_of_others_in_some_epochs(folder):
    cache = Cache(folder, limit=100 * KB)
    for i in range(100):
        cache.of(URL if i % 2 else OTHER).put(at(i), body(i))
    aged(folder, 50_000)
    ds = Cache(folder, limit=100 * KB).of(URL)
    ds._cache.folder.eviction.fade = 0.98  # the hits are few
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
    ds._cache.folder.eviction.opened -= 1  # the clock of a file system is milliseconds late
    if age is not None:
        later(ds, age - (gap or 0))
    ds.put(at(1), body(1))
    if gap is not None:
        later(ds, gap)
        ds.get(at(1))
    ds.put(at(2), body(2))
    assert held(ds, 3) == ([1, 2] if goes else [0, 1])


def test_a_long_gap_is_forgotten(folder):
    ds = Cache(folder, limit=3 * KB).of(URL)
    ds._cache.folder.eviction.fade = 0.9
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
    small._cache.folder.eviction.opened -= 1
    ds = Cache(folder, limit=10 * KB).of(URL)
    for i in range(10):
        ds.put(at(i), body(i))
    small.put(at(10), body(10))
    assert counted(folder) == on_disk(folder) == 3 * KB
    assert small.get(at(10)) is None
