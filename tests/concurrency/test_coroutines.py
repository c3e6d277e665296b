"""Coroutines run from plain threads, a few at a time, and none runs when the interpreter ends."""

import asyncio
import gc
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from pcrstore.concurrency.coroutines import NativeCalls, each, run_on


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


class Settled:
    """Counts how often the library was let drop references."""

    def __init__(self):
        self.n = 0

    def __call__(self):
        self.n += 1


def endless(calls, future, started):
    async def work():
        started.set()
        await calls.hold(future)

    return work()


def test_an_end_cancels_what_runs_and_waits_for_what_the_library_holds(loop):
    settled = Settled()
    calls, started = NativeCalls(settled), threading.Event()
    native = [loop.create_future()]  # the reference of a native thread

    def run():
        with pytest.raises(SystemExit, match="the interpreter is ending"):
            calls.run(loop, endless(calls, native[0], started))
        return "ended"

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        started.wait()
        assert calls.end(seconds=0.05) is False  # the native thread still has the future
        assert settled.n > 0
        assert ended.result() == "ended"
    native.clear()
    gc.collect()
    assert calls.end(seconds=5) is True


def test_a_future_that_nobody_holds_is_forgotten(loop):
    calls = NativeCalls(lambda: None)

    async def work():
        future = loop.create_future()
        loop.call_soon(future.set_result, 7)
        return await calls.hold(future)

    assert calls.run(loop, work()) == 7
    assert calls.end(seconds=5) is True


async def answer():
    return 7


def test_after_the_end_only_the_main_thread_runs_coroutines(loop):
    calls = NativeCalls(lambda: None)
    assert calls.end() is True
    assert calls.run(loop, answer()) == 7

    def late():
        with pytest.raises(SystemExit, match="only its main thread"):
            calls.run(loop, answer())
        return "refused"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(late).result() == "refused"


def test_a_cancellation_that_is_not_of_the_end_is_itself(loop):
    async def work():
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        NativeCalls(lambda: None).run(loop, work())
