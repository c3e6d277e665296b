"""Each process makes its own object, once, when it first needs it."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import pytest
from children import in_child

from pcrstore.concurrency.per_process import PerProcess


def test_it_is_made_on_first_use_and_then_kept():
    made = []
    own = PerProcess(lambda: made.append(1) or object())
    assert made == []
    assert own.get() is own.get()
    assert made == [1]


def test_a_forked_child_makes_its_own():
    own = PerProcess(os.getpid)
    assert own.get() == os.getpid()
    assert in_child(lambda: own.get() == os.getpid()) == "True"


def pid_of(own, replies):
    replies.put((own.get(), os.getpid()))


def test_a_pickle_carries_how_it_is_made_and_not_the_object():
    own = PerProcess(threading.Lock)  # a lock cannot be pickled
    own.get()
    copy = pickle.loads(pickle.dumps(own))  # noqa: S301 (our own bytes)
    assert copy.get() is not own.get()


def test_a_spawned_process_makes_its_own():
    own = PerProcess(os.getpid)
    own.get()
    context = get_context("spawn")
    replies = context.SimpleQueue()
    process = context.Process(target=pid_of, args=(own, replies))
    process.start()
    made, pid = replies.get()
    process.join(60)
    assert made == pid != os.getpid()


def test_threads_that_ask_at_a_time_get_the_one_object():
    barrier = threading.Barrier(8)
    made = []

    def make():
        made.append(threading.get_ident())
        return object()

    own = PerProcess(make)

    def ask(_):
        barrier.wait()
        return own.get()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(map(id, threads.map(ask, range(8))))) == 1
    assert len(made) == 1


def test_a_fork_during_the_making_leaves_the_child_free_to_make_its_own():
    begun, go_on = threading.Event(), threading.Event()
    maker = os.getpid()

    def make():
        if os.getpid() == maker:
            begun.set()
            go_on.wait()
        return os.getpid()

    own = PerProcess(make)
    thread = threading.Thread(target=own.get)
    thread.start()
    begun.wait()
    assert in_child(lambda: own.get() == os.getpid()) == "True"
    go_on.set()
    thread.join()
    assert own.get() == maker


def test_a_making_that_failed_is_tried_again():
    outcomes = iter([OSError("no network yet"), "client"])

    def make():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    own = PerProcess(make)
    with pytest.raises(OSError, match="no network yet"):
        own.get()
    assert own.get() == "client"
