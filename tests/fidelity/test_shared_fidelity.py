"""Every process reads the fidelity that one of them set."""

import pickle
import threading
from multiprocessing import get_context

import numpy as np
import pytest
from children import in_child
from curves import SIZES, G, a_manifest

from pcrstore.concurrency import SharedNumber
from pcrstore.errors import FidelityError, OptionError, UsageError
from pcrstore.fidelity.mixture import Mixture
from pcrstore.fidelity.shared_fidelity import SharedFidelity
from pcrstore.fidelity.targets import ByteBudget, MsSsim


def shared(fidelity, *sizes, groups=G):
    return SharedFidelity([a_manifest(n, groups) for n in sizes or (100,)], fidelity)


def chosen(fidelities, images=range(3), record=0, *, source=0, seed=0, epoch=0):
    return fidelities.choose(source, np.array(images), record, seed=seed, epoch=epoch)


KINDS = {
    "number": (2, 2),
    "numpy-number": (np.int64(4), 4),
    "text": ("3", 3),
    "full": ("full", 5),
    "bytes": ("bytes<=310", 3),
    "bytes-under": ("bytes<=309", 2),
    "budget": (ByteBudget(1000), 5),
    "quality": ("ms-ssim>=0.95", 3),
    "quality-over": (MsSsim(0.951), 4),
    "mixture-of-one": (Mixture({3: 0.5}), 3),
    "mixture-with-nothing-of-others": (Mixture({3: 0.5, 1: 0, 5: 0.0}), 3),
    "mixture-of-names-of-one": (Mixture({"full": 1, 5: 2}), 5),
}


@pytest.mark.parametrize(("fidelity", "expected"), KINDS.values(), ids=KINDS)
def test_kinds_of_fidelity(fidelity, expected):
    fidelities = shared(fidelity)
    assert chosen(fidelities) == expected
    assert fidelities.mean_bytes(0) == pytest.approx(SIZES[expected - 1])
    assert not fidelities.is_per_sample(0)


WRONG = {
    "zero": (0, FidelityError, "must be in 1..5, got 0"),
    "over": (6, FidelityError, "must be in 1..5, got 6"),
    "boolean": (True, FidelityError, "integer"),
    "none": (None, FidelityError, "integer"),
    "mapping": ({3: 1}, FidelityError, r"got \{3: 1\}"),
    "set": ({3}, FidelityError, r"got \{3\}"),
    "text": ("original", FidelityError, "must be 1..5"),
    "in-a-mixture": (Mixture({3: 1, 6: 1}), FidelityError, "got 6"),
    "too-few-each": ([3] * 99, OptionError, "expected 100 fidelities, got 99"),
    "too-many-each": ((3,) * 101, OptionError, "expected 100 fidelities, got 101"),
    "one-of-each": ([3] * 99 + [0], FidelityError, "got 0"),
    "each-not-whole": (np.full(100, 2.5), FidelityError, "integer"),
    "each-of-a-mixture": ([Mixture({3: 1})] * 100, FidelityError, "integer"),
    "each-nothing-alone": (np.array(3), OptionError, "row of fidelities"),
    "each-a-table": (np.ones((100, 2), int), OptionError, "row of fidelities"),
}


@pytest.mark.parametrize(("fidelity", "error", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_fidelity_is_refused_and_changes_nothing(fidelity, error, says):
    with pytest.raises(error, match=says):
        shared(fidelity)
    fidelities = shared([2] * 100)
    with pytest.raises(error, match=says):
        fidelities.set(fidelity)
    assert chosen(fidelities) == 2


def test_a_dataset_without_the_fidelity_is_refused_and_none_is_changed():
    fidelities = SharedFidelity([a_manifest(10, 5), a_manifest(10, 3)], 3)
    with pytest.raises(FidelityError, match=r"1\.\.3, got 5"):
        fidelities.set(5)
    assert [chosen(fidelities, source=s) for s in (0, 1)] == [3, 3]
    fidelities.set("full")
    assert [chosen(fidelities, source=s) for s in (0, 1)] == [5, 3]


# ---- a fidelity for each image


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_each_image_has_its_own(kind):
    each = [i % 5 + 1 for i in range(30)]
    fidelities = shared(kind(each), 10, 20)
    assert chosen(fidelities, range(10)) == tuple(each[:10])
    assert chosen(fidelities, [0, 5], source=1) == 1
    assert chosen(fidelities, [19, 3], source=1) == (each[29], each[13])
    assert fidelities.is_per_sample(0)
    assert fidelities.is_per_sample(1)
    assert fidelities.mean_bytes(0) == SIZES[-1]


def test_each_is_resolved_for_its_dataset():
    fidelities = SharedFidelity([a_manifest(2, 5), a_manifest(2, 3)], ["full", 1, "full", 1])
    assert chosen(fidelities, [0, 1]) == (5, 1)
    assert chosen(fidelities, [0, 1], source=1) == (3, 1)
    with pytest.raises(FidelityError, match=r"1\.\.3, got 5"):
        fidelities.set([5, 5, 5, 5])


def test_each_follows_only_each():
    fidelities = shared(3)
    with pytest.raises(OptionError, match="made with a fidelity per image"):
        fidelities.set([1] * 100)
    fidelities = shared([1, 2] * 50)
    fidelities.set(4)
    assert chosen(fidelities) == 4
    assert not fidelities.is_per_sample(0)
    fidelities.set([5, 2] * 50)
    assert chosen(fidelities) == (5, 2, 5)


# ---- processes


def test_a_forked_process_sees_what_is_set_later():
    fidelities = shared([1] * 100)
    go = get_context("fork").Semaphore(0)

    def child():
        go.acquire()
        return chosen(fidelities, range(4))

    def change():
        fidelities.set([5, 1] * 50)
        go.release()

    threading.Timer(0.2, change).start()
    assert in_child(child) == str((5, 1, 5, 1))


def _watch(fidelities, ready, stop, back):
    ready.release()
    seen = set()
    while not stop.acquire(block=False):
        seen.add(chosen(fidelities))
    back.put(seen)


def test_no_process_sees_half_a_change():
    """Of the words of 2 and 5 a half may be 0, which stands for the 1 of each image."""
    context = get_context("fork")
    fidelities = shared([1] * 100)
    fidelities.set(2)
    ready, stop, back = context.Semaphore(0), context.Semaphore(0), context.SimpleQueue()
    process = context.Process(target=_watch, args=(fidelities, ready, stop, back))
    process.start()
    ready.acquire()
    for _ in range(5000):
        fidelities.set(5)
        fidelities.set(2)
    stop.release()
    assert back.get() <= {2, 5}
    process.join()


@pytest.mark.parametrize("n_written", [0, 1, 36, 37])
def test_a_writer_that_died_half_way_changes_nothing(n_written):
    fidelities = shared(5)
    before = bytes(fidelities._rows)
    fidelities.set(2)
    after = bytes(fidelities._rows)
    slot = 1 + 37 * after[0]  # of the second change; the byte before both slots says which counts
    fidelities._rows[:] = before
    fidelities._rows[slot : slot + n_written] = after[slot : slot + n_written]
    assert chosen(fidelities) == 5
    fidelities.set(4)
    assert chosen(fidelities) == 4


def _set(fidelities, back):
    try:
        fidelities.set(2)
    except UsageError as e:
        back.put(str(e))


def test_a_worker_cannot_set_the_fidelity_of_all():
    fidelities, context = shared(5), get_context("fork")
    back = context.SimpleQueue()
    process = context.Process(target=_set, args=(fidelities, back))
    process.start()
    assert "in the process that made it" in back.get()
    process.join()
    assert chosen(fidelities) == 5


def _worker(fidelities, go, back):
    for _ in range(3):
        go.get()
        back.put(chosen(fidelities, range(4)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_that_is_started_shares_the_fidelity(method):
    context = get_context(method)
    fidelities = shared([1] * 100)
    go, back = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_worker, args=(fidelities, go, back))
    process.start()
    seen = []
    for fidelity in ([1, 2] * 50, 4, "full"):
        fidelities.set(fidelity)
        go.put(None)
        seen.append(back.get())
    process.join()
    assert seen == [(1, 2, 1, 2), 4, 5]


@pytest.mark.parametrize("fidelity", [3, Mixture({2: 1, 4: 2}), [1, 4] * 50], ids=str)
def test_anywhere_else_a_pickle_is_a_copy(fidelity):
    fidelities = shared(fidelity)
    copy = pickle.loads(pickle.dumps(fidelities))  # noqa: S301 - our own bytes
    assert [chosen(copy, record=r) for r in range(9)] == [
        chosen(fidelities, record=r) for r in range(9)
    ]
    copy.set(5)
    assert chosen(copy) == 5
    assert [chosen(fidelities, record=r) for r in range(9)] == [
        chosen(shared(fidelity), record=r) for r in range(9)
    ]
    if isinstance(fidelity, list):
        copy.set([2, 3] * 50)
        assert chosen(copy) == (2, 3, 2)


def _report(fidelities, number, go, back):
    go.get()
    back.put((chosen(fidelities, range(4)), number.value))


def test_memory_that_was_shared_is_not_given_to_the_next_one():
    context = get_context("spawn")
    go, back = context.SimpleQueue(), context.SimpleQueue()
    given = (shared([1, 2] * 50), SharedNumber(3, "epoch"), go, back)
    process = context.Process(target=_report, args=given)
    process.start()
    del given
    others = [(shared([5] * 100), SharedNumber(9, "epoch")) for _ in range(20)]
    go.put(None)
    assert back.get() == ((1, 2, 1, 2), 3)
    process.join(60)
    assert len(others) == 20
