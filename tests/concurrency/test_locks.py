"""A lock that another thread held when the process was forked is free in the child."""

import threading

from children import in_child

from pcrstore.concurrency.locks import ForkSafeLock


def locked_by_another(lock, held, done):
    with lock:
        held.set()
        done.wait()


def test_a_lock_held_by_another_thread_is_free_in_a_forked_child():
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()
    thread = threading.Thread(target=locked_by_another, args=(lock, held, done))
    thread.start()
    held.wait()

    def take():
        with lock, lock:
            return "taken"

    assert in_child(take) == "taken"
    done.set()
    thread.join()


def test_a_lock_keeps_other_threads_out():
    lock, held, done, order = ForkSafeLock(), threading.Event(), threading.Event(), []

    def second():
        held.wait()
        done.set()
        with lock:
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with lock:
        held.set()
        done.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_child_forked_while_its_thread_holds_the_lock_goes_on():
    lock = ForkSafeLock()

    def take():
        with lock:
            return "taken"

    def fork_and_take():
        with lock:
            return in_child(take)

    assert fork_and_take() == "taken"
