"""Waits, deadlines and limits of the one retry loop."""

import asyncio
import random

import pytest

from pcrstore.errors import NotFoundError, OptionError, StoreError, TransientStoreError
from pcrstore.storage import retry as module
from pcrstore.storage.retry import Backoff, RetryableError, RetryPolicy, retry, retry_async


class Clock:
    """Time that passes only in sleep."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.slept = []
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def failing(n, error):
    calls = []

    def attempt():
        calls.append(1)
        if len(calls) <= n:
            raise error
        return len(calls)

    return attempt


def same(error):
    return error


def test_a_passing_failure_passes(clock):
    assert retry(failing(3, RetryableError("busy")), RetryPolicy(), same) == 4
    assert len(clock.slept) == 3


def test_a_final_error_is_raised_at_once(clock):
    with pytest.raises(NotFoundError, match="gone"):
        retry(failing(9, NotFoundError("gone")), RetryPolicy(), same)
    assert clock.slept == []


def test_waits_are_full_jitter_under_doubling_bounds(clock, monkeypatch):
    bounds = []

    def uniform(low, high):
        bounds.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    policy = RetryPolicy(first_delay=1.0, max_delay=5.0, deadline=1000.0)
    retry(failing(5, RetryableError("busy")), policy, same)
    assert bounds == [(0, 1.0), (0, 2.0), (0, 4.0), (0, 5.0), (0, 5.0)]
    assert clock.slept == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_nothing_is_tried_after_the_deadline(clock):
    policy = RetryPolicy(deadline=10.0, first_delay=1.0)
    with pytest.raises(TransientStoreError, match=r"busy \(gave up after \d+ requests") as caught:
        retry(failing(1000, RetryableError("busy")), policy, same)
    assert type(caught.value) is TransientStoreError
    assert clock.now < 10.0


def test_what_the_server_asks_for_is_waited(clock):
    error = RetryableError("busy")
    error.retry_after = 7.0
    retry(failing(1, error), RetryPolicy(), same)
    assert clock.slept == [7.0]


def test_tries_and_patience_are_limits(clock):
    error = RetryableError("short")
    error.max_tries = 3
    with pytest.raises(TransientStoreError, match="after 3 requests"):
        retry(failing(9, error), RetryPolicy(), same)
    error = RetryableError("nobody there")
    error.patience = 2.0
    clock.now = 100.0
    with pytest.raises(TransientStoreError):
        retry(failing(1000, error), RetryPolicy(), same)
    assert clock.now <= 102.0


SLOW = {
    # seconds of each try, patience, deadline: what is logged
    "soon": (1.0, None, 4.0, []),
    "nobody-there-at-first": (35.0, 10.0, 120.0, []),
    "at-the-deadline": (35.0, None, 35.0, []),
    "time-left": (6.0, None, 120.0, ["busy; trying again for up to 114 s"]),
    "little-left": (6.0, 7.0, 120.0, ["busy; trying again for up to 1 s"]),
}


@pytest.mark.parametrize(("took", "patience", "deadline", "logged"), SLOW.values(), ids=SLOW)
def test_a_retry_is_announced_only_where_one_is_made(
    clock, caplog, monkeypatch, took, patience, deadline, logged
):
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)

    def attempt():
        clock.now += took
        error = RetryableError("busy")
        error.patience = patience
        raise error

    with pytest.raises(TransientStoreError, match="gave up after"):
        retry(attempt, RetryPolicy(deadline=deadline), same)
    assert [record.getMessage() for record in caplog.records] == logged


def test_a_stalled_try_is_given_up():
    policy = RetryPolicy(deadline=0.2, stall=0.05, first_delay=0.001)
    tries = []

    async def attempt():
        tries.append(1)
        await asyncio.sleep(30)

    def translate(error):
        assert isinstance(error, TimeoutError)
        return RetryableError("stalled")

    with pytest.raises(TransientStoreError, match="stalled"):
        asyncio.run(retry_async(attempt, policy, translate))
    assert 2 <= len(tries) <= 5


@pytest.mark.parametrize(
    ("n_bytes", "left", "expected"),
    [(0, 100.0, 30.0), (0, 3.0, 3.0), (16 * 1024 * 60, 100.0, 90.0), (16 * 1024 * 60, 3.0, 63.0)],
)
def test_a_try_may_take_longer_the_more_it_moves(n_bytes, left, expected):
    assert RetryPolicy().attempt_limit(n_bytes=n_bytes, left=left) == expected


def test_the_time_left_is_never_nothing(clock):
    backoff = Backoff(RetryPolicy(deadline=1.0))
    clock.now = 5.0
    assert backoff.left() > 0


@pytest.mark.parametrize("field", ["deadline", "stall", "connect", "unreachable", "max_delay"])
def test_a_policy_of_no_time_is_refused(field):
    with pytest.raises(OptionError, match=field):
        RetryPolicy(**{field: 0})


def test_a_library_error_is_translated_first(clock):
    def translate(error):
        return StoreError(f"ours: {error}")

    with pytest.raises(StoreError, match="ours: theirs"):
        retry(failing(1, ValueError("theirs")), RetryPolicy(), translate)
    assert clock.slept == []
