"""The epoch cursor of a dataset, where several processes ask for the next epoch."""

import copy
import os
import pickle
import subprocess
import sys
import warnings
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from pcrstore.loader.cursor import EpochCursor, Position, Status
from pcrstore.torch import shared_cursor as module
from pcrstore.torch.shared_cursor import SharedCursor, SharedState


def join(cursor, worker, *, seed=0, nth=1, n_workers=2, is_over=lambda _: False):
    """Return the epoch that a worker begins, and the number of the state that it goes on from."""
    with cursor.locked() as shared:
        position = shared.join(seed, nth, worker, n_workers, is_over)
    return position.epoch, position.left


def load(cursor, epoch):
    with cursor.locked() as shared:
        return shared.load(epoch)


def set_epoch(cursor, epoch):
    with cursor.locked() as shared:
        shared.cursor.set_epoch(epoch)


def upcoming(cursor, is_over=lambda _: False):
    """Return the epoch that comes next, and the number of the state that it goes on from."""
    with cursor.locked() as shared:
        position = shared.cursor.upcoming(is_over)
    return position.epoch, position.left


@given(data=st.data(), n_workers=st.integers(1, 3), n_loops=st.integers(1, 3))
def test_workers_that_begin_together_read_one_epoch_in_whatever_order_they_come(
    data, n_workers, n_loops
):
    """Each DataLoader's iterator has a seed; workers that stay begin with it several times."""
    cursor = SharedCursor()
    left = {(seed, w): 1 for seed in range(2) for w in range(n_workers)}
    seen = {}
    while left:
        seed, worker = one = data.draw(st.sampled_from(sorted(left)))
        nth = left[one]
        epoch, _ = join(cursor, worker, seed=seed, nth=nth, n_workers=n_workers)
        seen.setdefault((seed, nth), set()).add(epoch)
        left[one] += 1
        if nth == n_loops:
            del left[one]
    assert all(len(of) == 1 for of in seen.values())
    assert sorted(epoch for of in seen.values() for epoch in of) == list(range(2 * n_loops))


def test_a_loop_of_the_same_seed_is_another_where_a_worker_came_already_or_is_gone(monkeypatch):
    cursor = SharedCursor()
    assert [join(cursor, 0)[0], join(cursor, 0)[0]] == [0, 1]
    assert join(cursor, 1)[0] == 1
    monkeypatch.setattr(module, "_is_alive", lambda _: False)
    assert join(cursor, 1)[0] == 2


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_state(monkeypatch):
    cursor = SharedCursor()
    assert join(cursor, 0, n_workers=3)[0] == 0
    written = os.pwrite

    def killed(*args):
        written(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # the last one to join makes the state shorter
        patch.setattr(os, "pwrite", killed)
        for worker in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                join(cursor, worker, n_workers=3)
    assert upcoming(cursor)[0] == 1


def _joins(cursor, worker, go, back):
    go.get()
    back.put(join(cursor, worker)[0])


def test_a_worker_that_begins_after_the_others_have_ended_belongs_to_their_loop():
    fork = get_context("fork")
    cursor, back = SharedCursor(), fork.SimpleQueue()

    def workers():
        queues = [fork.SimpleQueue() for _ in range(2)]
        started = [
            fork.Process(target=_joins, args=(cursor, w, go, back)) for w, go in enumerate(queues)
        ]
        for process in started:
            process.start()
        return list(zip(started, queues, strict=True))

    def begins(worker):
        process, go = worker
        go.put(None)
        process.join(60)
        return back.get()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest's process has threads
        left, following = workers(), workers()
    assert begins(left[0]) == 0
    # The next iterator's worker, of the same seed: the loop that was left has no worker any more.
    assert begins(following[1]) == 1
    assert begins(left[1]) == 0
    assert begins(following[0]) == 1
    assert upcoming(cursor)[0] == 2


def test_a_process_is_alive_until_it_has_ended():
    assert module._is_alive(os.getpid())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not module._is_alive(ended.pid)


def test_a_process_of_somebody_else_is_alive(monkeypatch):
    def kill(*_):
        raise PermissionError

    monkeypatch.setattr("os.kill", kill)
    assert module._is_alive(1)


def test_one_iteration_goes_on_from_a_state_and_all_of_its_workers_do():
    cursor = SharedCursor()
    number = load(cursor, 7)
    assert upcoming(cursor) == (7, number)
    assert join(cursor, 0) == (7, number)
    assert upcoming(cursor) == (8, None)
    assert join(cursor, 0, nth=2) == (8, None)
    assert join(cursor, 1) == (7, number)
    assert join(cursor, 1, nth=2) == (8, None)
    later = load(cursor, 3)
    assert join(cursor, 0, seed=1) == (3, later)
    assert later != number


def test_workers_of_a_state_of_which_nothing_is_left_read_the_epoch_after_it():
    cursor = SharedCursor()
    load(cursor, 7)
    assert join(cursor, 0, is_over=lambda position: position.epoch == 7) == (8, None)
    assert join(cursor, 1) == (8, None)
    assert upcoming(cursor) == (9, None)


def test_an_epoch_that_is_set_is_the_next_and_drops_a_state_or_keeps_it():
    cursor = SharedCursor()
    number = load(cursor, 3)
    set_epoch(cursor, 3)
    assert upcoming(cursor, lambda _: True) == (3, number)
    set_epoch(cursor, 4)
    assert upcoming(cursor) == (4, None)


def test_after_an_end_comes_the_epoch_that_was_set_before_it_was_loaded_or_the_next_one():
    """torchdata loads a state when it begins to iterate, behind a program's `set_epoch`."""
    cursor = SharedCursor()
    set_epoch(cursor, 9)
    load(cursor, 3)
    load(cursor, 3)
    assert upcoming(cursor, lambda _: True) == (9, None)
    load(cursor, 9)
    assert upcoming(cursor, lambda _: True) == (10, None)


@pytest.mark.parametrize(
    ("is_set", "ends", "expected"),
    [
        (False, [True, True], 4),
        (False, [False, True], 4),
        (True, [True, True], 9),
        (True, [True, False], 4),
        (True, [False, True], 4),
    ],
)
def test_an_epoch_that_is_set_stays_the_next_while_workers_find_nothing_left(
    is_set, ends, expected
):
    cursor = SharedCursor()
    if is_set:
        set_epoch(cursor, 9)
    for is_over in ends:
        with cursor.locked() as shared:
            shared.resume(3, is_over=is_over)
    assert upcoming(cursor) == (expected, None)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301 - our own bytes
def test_a_copy_is_where_the_other_is_and_goes_its_own_way(copied):
    cursor = SharedCursor()
    set_epoch(cursor, 3)
    other = copied(cursor)
    join(cursor, 0)
    assert (upcoming(cursor), upcoming(other)) == ((4, None), (3, None))


def test_a_change_that_fails_changes_nothing():
    cursor = SharedCursor()

    def fails():
        with cursor.locked() as shared:
            shared.load(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert upcoming(cursor) == (0, None)


def test_iterations_that_no_worker_comes_to_are_forgotten():
    cursor = SharedCursor()
    for seed in range(100):
        join(cursor, 0, seed=seed)
    with cursor.locked() as shared:
        assert len(shared.joinable) == module._KEPT
    assert join(cursor, 1, seed=99)[0] == 99


@pytest.mark.parametrize("status", [Status.READY, Status.READING, Status.OVERRULED])
def test_what_is_shared_is_read_as_it_was_written(status):
    state = SharedState(cursor=EpochCursor(), n_loaded=2)
    state.join(seed=5, nth=1, worker=0, n_workers=2, is_over=lambda _: False)
    if status is Status.READY:
        state.load(4)
    elif status is Status.OVERRULED:
        state.cursor.set_epoch(8)
    again = SharedState.from_json(state.to_json())
    assert again.cursor.status is state.cursor.status is status
    assert again.cursor.upcoming() == state.cursor.upcoming()
    assert again.cursor.now == state.cursor.now == Position(epoch=0)
    assert again.to_json() == state.to_json()
