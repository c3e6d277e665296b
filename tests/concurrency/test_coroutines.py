"""Coroutines run from plain threads, a few at a time."""

import asyncio
import threading

import pytest

from pcrstore.concurrency.coroutines import each, run_on


@pytest.fixture
def loop():
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_result_and_an_error_come_back_from_the_loop(loop):
    async def work(fails):
        await asyncio.sleep(0)
        if fails:
            raise ValueError("of the coroutine")
        return threading.get_ident()

    assert run_on(loop, work(fails=False)) != threading.get_ident()
    with pytest.raises(ValueError, match="of the coroutine"):
        run_on(loop, work(fails=True))


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_results_are_in_order_and_at_most_the_limit_runs_at_a_time(loop, limit):
    running, most = 0, 0

    async def work(i):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(7 - i % 7):  # the later ones of seven are done first
            await asyncio.sleep(0)
        running -= 1
        return i * i

    assert run_on(loop, each(range(20), work, limit=limit)) == [i * i for i in range(20)]
    assert most == min(limit, 20)


def test_the_first_failure_cancels_the_rest(loop):
    ended = []

    async def work(i):
        try:
            if i == 2:
                raise OSError("the third")
            await asyncio.Event().wait()
        finally:
            ended.append(i)

    with pytest.raises(OSError, match="the third"):
        run_on(loop, each(range(5), work, limit=5))
    assert sorted(ended) == list(range(5))


def test_nothing_to_do_is_done(loop):
    assert run_on(loop, each([], None, limit=3)) == []
