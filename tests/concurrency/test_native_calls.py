"""Calls of a native library end before the interpreter does, and its threads leave Python."""

import asyncio
import gc
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from pcrstore.concurrency.native_calls import NativeCalls


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


class Dropped:
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
    dropped = Dropped()
    calls, started = NativeCalls(dropped), threading.Event()
    native = [loop.create_future()]  # the reference of a native thread

    def run():
        with pytest.raises(SystemExit, match="the interpreter is ending"):
            calls.run(loop, endless(calls, native[0], started))
        return "ended"

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        started.wait()
        assert calls.end(seconds=0.05) is False  # the native thread still has the future
        assert dropped.n > 0
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
