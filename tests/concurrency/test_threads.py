"""Threads do what is put before them, in order, and end when they are told to."""

import subprocess
import sys
import threading
import time
import weakref

import pytest
from small_datasets import until

from pcrstore.concurrency.threads import POLL_SECONDS, StopFlag, Threads

pytestmark = pytest.mark.usefixtures("no_threads_left")


def test_one_thread_keeps_the_order():
    threads, done = Threads(1, "test"), []
    for i in range(100):
        threads.put(lambda i=i: done.append(i))
    assert until(lambda: len(done) == 100)
    assert done == list(range(100))
    threads.stop()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_as_many_run_at_a_time_as_there_are(n):
    threads, together = Threads(n, "test"), threading.Barrier(n + 1)
    for _ in range(n):
        threads.put(lambda: together.wait(5))
    together.wait(5)
    threads.stop()


def test_stop_drops_what_waits_and_lets_end_what_runs():
    threads, go, done = Threads(1, "test"), threading.Event(), []
    threads.put(lambda: done.append(go.wait(5)))
    threads.put(lambda: done.append("dropped"))
    time.sleep(0.1)
    threads.stop()
    go.set()
    assert until(lambda: done == [True])
    Threads.end_all(5)
    assert done == [True]


def test_what_is_put_after_stop_is_dropped_and_held_by_nobody():
    class Work:
        def __call__(self):
            done.append("ran")

    threads, go, done = Threads(1, "test"), threading.Event(), []
    threads.put(lambda: done.append(go.wait(5)))
    assert until(threads._queue.empty)
    threads.stop()
    work = Work()
    held = weakref.ref(work)
    threads.put(work)
    del work
    assert held() is None
    go.set()
    Threads.end_all(5)
    assert done == [True]


def test_what_is_put_while_they_are_stopped_is_dropped():
    """`stop` comes between the look and the put: what is put lies behind the threads' ends."""
    threads = Threads(1, "test")
    queue, put = threads._queue, []

    class Between:
        def put(self, work):
            if not put:
                put.append(work)
                threads.stop()
            queue.put(work)

        get = queue.get
        get_nowait = queue.get_nowait

    threads._queue = Between()
    threads.put(lambda: put.append("ran"))
    threads.join(5)
    assert len(put) == 1
    left = [queue.get_nowait() for _ in range(queue.qsize())]
    assert not any(left)


def test_end_all_waits_for_what_runs_and_no_longer_than_it_may():
    threads, go, begun = Threads(2, "test"), threading.Event(), threading.Event()

    def wait():
        begun.set()
        go.wait(10)

    threads.put(wait)
    assert begun.wait(5)
    start = time.monotonic()
    Threads.end_all(0.3)
    assert 0.25 < time.monotonic() - start < 5
    go.set()
    Threads.end_all(5)
    assert not any(t.name.startswith("pcrstore-test") for t in threading.enumerate())


def test_a_thread_that_waits_holds_nothing():
    class Held:
        def __call__(self):
            done.append(True)

    threads, done, work = Threads(1, "test"), [], Held()
    held = weakref.ref(work)
    threads.put(work)
    del work
    assert until(lambda: done == [True] and held() is None)
    threads.stop()


def test_threads_that_do_not_start_are_not_waited_for(monkeypatch):
    start = threading.Thread.start

    def starts(thread):
        if thread.name.endswith("-2"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    with pytest.raises(RuntimeError, match="can't start"):
        Threads(4, "test")
    Threads.end_all(5)


def test_a_thread_may_end_all_others():
    threads, done = Threads(2, "test"), []

    def end():
        Threads.end_all(1)
        done.append(True)

    threads.put(end)
    assert until(lambda: done == [True], 5)


def test_a_wait_ends_with_the_event_or_with_life():
    life, event = StopFlag(), threading.Event()
    threading.Timer(0.05, event.set).start()
    assert life.wait(event)
    event.clear()
    threading.Timer(0.05, lambda: setattr(life, "is_over", True)).start()
    start = time.monotonic()
    assert not life.wait(event)
    assert time.monotonic() - start < 2 * POLL_SECONDS + 1
    event.set()
    assert life.wait(event)  # what did happen counts


@pytest.mark.slow
def test_an_interpreter_that_ends_lets_decoders_finish():
    """A daemon thread that still ran would be killed in the middle, and torch aborts there."""
    script = """
import time
from pcrstore.concurrency.threads import Threads
threads = Threads(1, "test")
threads.put(lambda: [time.sleep(0.5), print("finished")])
time.sleep(0.1)
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\nfinished\n", "")
