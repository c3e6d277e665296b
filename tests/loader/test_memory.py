"""Memory of a batch is given out again once nobody can look at it, and never before."""

import copy
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.loader import memory as buffers
from pcrstore.loader.memory import BatchMemory

try:
    import torch
except ModuleNotFoundError:
    torch = None

ROW = (4, 5, 3)


def address(array):
    return array.__array_interface__["data"][0]


def flat(array):
    return array.reshape(-1)


VIEWS = {
    "itself": lambda a: a,
    "slice": lambda a: a[1:],
    "row": lambda a: a[2],
    "row-of-row": lambda a: a[2][1][:2],
    "reshaped": flat,
    "transposed": lambda a: a.transpose(0, 3, 1, 2),
    "other-type": lambda a: flat(a)[:16].view(np.int64),
    "iterator-item": lambda a: next(iter(a)),
    "memoryview": memoryview,
    "frombuffer": lambda a: np.frombuffer(a.data, np.uint8),
    "as-array": lambda a: np.asarray(a)[::2],
    "subclass": lambda a: a.view(np.recarray)[1:],
    "dlpack": lambda a: np.from_dlpack(a)[1:],
}
if torch is not None:
    VIEWS |= {
        "tensor": torch.from_numpy,
        "tensor-view": lambda a: torch.from_numpy(a).permute(0, 3, 1, 2)[1:],
        "tensor-back-to-array": lambda a: torch.from_numpy(a)[1].numpy(),
    }


@pytest.mark.parametrize("name", VIEWS)
def test_any_view_keeps_the_memory_and_the_last_one_gives_it_back(name):
    memory = BatchMemory(4, ROW)
    array = memory.take(4)
    at = address(array)
    array[:] = 7
    view = VIEWS[name](array)
    del array
    other = memory.take(4)
    assert address(other) != at
    other[:] = 1
    assert np.asarray(view).view(np.uint8).min() == 7
    del view
    assert address(memory.take(4)) == at


@pytest.mark.parametrize("n", [1, 3, 4])
def test_smaller_batches_are_cut_from_the_same_memory(n):
    memory = BatchMemory(4, ROW)
    whole = memory.take(4)
    at = address(whole)
    del whole
    some = memory.take(n)
    assert some.shape == (n, *ROW)
    assert some.dtype == np.uint8
    assert some.flags.c_contiguous
    assert some.flags.writeable
    assert address(some) == at


def test_memory_outlives_who_gave_it():
    memory = BatchMemory(2, ROW)
    array = memory.take(2)
    del memory
    gc.collect()
    array[:] = 3
    assert array.sum() == 3 * array.size


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 99)), max_size=40))
def test_no_two_batches_in_use_share_a_byte(steps):
    memory = BatchMemory(4, ROW)
    held, most = [], 0
    seen = set()
    for number, (takes, n, pick) in enumerate(steps):
        if takes or not held:
            array = memory.take(n)
            array[:] = number
            seen.add(address(array))
            held.append((array[n // 2 :], number))
            del array
        else:
            held.pop(pick % len(held))
        most = max(most, len(held))
        assert all((view == expected).all() for view, expected in held)
    assert len(seen) <= most + 1  # no more memory than was in use at once


def test_a_collection_while_memory_is_taken_gives_back_more(monkeypatch):
    """The collector runs where it likes: also in the thread that is taking memory."""
    memory = BatchMemory(2, ROW)
    cycle = [memory.take(2)]
    at = address(cycle[0])
    cycle.append(cycle)
    del cycle
    real = np.empty

    def collected(*args):
        gc.collect()
        return real(*args)

    monkeypatch.setattr(buffers.np, "empty", collected)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(memory.take(2)), daemon=True)
    thread.start()
    thread.join(10)
    monkeypatch.undo()
    assert taken, "it waits for itself"
    assert address(memory.take(2)) == at


def test_threads_take_and_let_go_at_once():
    memory = BatchMemory(3, ROW)
    wrong = []

    def work(number):
        for _ in range(300):
            array = memory.take(3)
            array[:] = number
            view = array[1:]
            del array
            if not (view == number).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong
    assert len({id(block) for _, block in memory._lent}) == len(memory._lent)


def test_letting_go_runs_no_python():
    """Python may take an interrupt in any function; raised in a callback, it would be ignored."""
    array = BatchMemory(2, ROW).take(2)
    called = []
    gc.collect()
    gc.disable()  # a collection has callbacks of its own
    sys.setprofile(lambda frame, event, _: called.append((event, frame.f_code.co_qualname)))
    try:
        del array
    finally:
        sys.setprofile(None)
        gc.enable()
    assert [name for event, name in called if event == "call"] == []


def test_of_all_that_a_consumer_kept_only_the_last_blocks_stay():
    memory = BatchMemory(2, (3,))
    kept = [memory.take(2) for _ in range(50)]
    blocks = [ref(array.base.base.obj) for array in kept]
    assert all(block() is not None for block in blocks)
    kept.clear()
    assert [block() is not None for block in blocks] == [False] * 34 + [True] * 16


@pytest.mark.parametrize(("n_held", "n_made"), [(0, 1), (1, 2), (15, 16), (16, 60)])
def test_a_consumer_that_holds_the_last_batches_uses_memory_again(monkeypatch, n_held, n_made):
    memory, held, made, real = BatchMemory(2, ROW), deque(maxlen=n_held), [], np.empty
    monkeypatch.setattr(buffers.np, "empty", lambda *args: made.append(args) or real(*args))
    for _ in range(60):
        held.append(memory.take(2))
    assert len(made) == n_made


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301 - our own
def test_a_copy_takes_memory_of_its_own(copied):
    memory = BatchMemory(2, ROW)
    at = address(memory.take(2))
    other = copied(memory).take(2)
    assert address(other) != at
    mine = memory.take(2)
    assert address(mine) == at
    assert other.shape == mine.shape


THREADS = """
import ctypes, threading
from pcrstore.loader.memory import share_one_arena
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
share_one_arena()
threads = [threading.Thread(target=libc.malloc, args=(100_000,)) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
libc.malloc_stats()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="of glibc")
@pytest.mark.parametrize(
    ("environment", "shared"),
    [({}, True), ({"MALLOC_ARENA_MAX": "5"}, False), ({"GLIBC_TUNABLES": ""}, False)],
    ids=str,
)
def test_threads_share_one_arena_unless_the_user_says_otherwise(environment, shared):
    kept = {k: v for k, v in os.environ.items() if k not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Arena 0:" in done.stderr
    assert ("Arena 1:" in done.stderr) is not shared
