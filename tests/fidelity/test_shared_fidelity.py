"""The dial says one fidelity to every process, and draws mixtures as their weights say."""

import pickle
import threading
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from children import in_child
from hypothesis import given
from hypothesis import strategies as st
from index_parts import manifest

from pcrstore.concurrency import SharedNumber
from pcrstore.errors import FidelityError, OptionError
from pcrstore.fidelity.shared_fidelity import Mixture, SharedFidelity
from pcrstore.fidelity.targets import ByteBudget, MsSsim
from pcrstore.format.manifest import Quality, Totals

G = 5
SIZES = (40, 200, 310, 600, 1000)
"""Cumulative bytes of an image."""
SSIM = (0.8, 0.9, 0.95, 0.99, 1.0)


def a_manifest(n=100, groups=G):
    """The manifest of a dataset of `n` images and some groups."""
    cells = tuple(int(b - a) * n for a, b in zip((0, *SIZES), SIZES[:groups], strict=False))
    return replace(
        manifest(),
        n_images=n,
        group_labels=tuple("abcdefg"[:groups]),
        totals=Totals(sources=n * 2000, groups=cells, headers=50, restore=5),
        quality=Quality(n_images=2, ms_ssim=SSIM[:groups], ms_ssim_p05=SSIM[:groups]),
    )


def a_dial(fidelity, *sizes, groups=G):
    return SharedFidelity([a_manifest(n, groups) for n in sizes or (100,)], fidelity)


def chosen(dial, images=range(3), record=0, *, source=0, seed=0, epoch=0):
    return dial.choose(source, np.array(images), record, seed=seed, epoch=epoch)


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
    dial = a_dial(fidelity)
    assert chosen(dial) == expected
    assert dial.mean_bytes(0) == pytest.approx(SIZES[expected - 1])
    assert not dial.is_per_sample(0)


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
        a_dial(fidelity)
    dial = a_dial([2] * 100)
    with pytest.raises(error, match=says):
        dial.set(fidelity)
    assert chosen(dial) == 2


@pytest.mark.parametrize(
    "weights",
    [
        *({}, {1: -1}, {1: 0}, {1: 0, 2: 0.0}, {1: float("nan")}, {1: float("inf")}),
        *({1: 1, 2: -1e-9}, {1: "1"}, {1: None}, {1: True}, [3], "3", {3}, None),
    ],
    ids=str,
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(OptionError, match="weight"):
        Mixture(weights)


def test_a_mixture_is_drawn_for_records_or_samples():
    with pytest.raises(OptionError, match="per must be"):
        Mixture({1: 1}, per="image")


def test_a_dataset_without_the_fidelity_is_refused_and_none_is_changed():
    dial = SharedFidelity([a_manifest(10, 5), a_manifest(10, 3)], 3)
    with pytest.raises(FidelityError, match=r"1\.\.3, got 5"):
        dial.set(5)
    assert [chosen(dial, source=s) for s in (0, 1)] == [3, 3]
    dial.set("full")
    assert [chosen(dial, source=s) for s in (0, 1)] == [5, 3]


# ---- mixtures

WEIGHTS = {
    "two": {3: 10, 1: 1, 5: 1},
    "halves": {1: 0.5, 2: 0.5},
    "lowest-kept": {1: 1, 5: 255},
    "far-below-lowest": {1: 1e-9, 5: 1.0},
    "all": {1: 1, 2: 2, 3: 3, 4: 4, 5: 5},
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("per", ["record", "sample"])
def test_frequencies_are_the_weights(weights, per):
    dial = a_dial(Mixture(weights, per=per))
    n = 3000
    if per == "record":
        drawn = np.array([chosen(dial, record=r) for r in range(n)])
    else:
        drawn = np.array(chosen(dial, range(n)))
    most = max(weights.values())
    kept = {k: max(1, round(255 * w / most)) for k, w in weights.items()}
    for k in range(1, G + 1):
        p = kept.get(k, 0) / sum(kept.values())
        deviation = np.sqrt(n * p * (1 - p))
        assert abs((drawn == k).sum() - n * p) <= 4 * deviation
    mean = sum(kept[k] * SIZES[k - 1] for k in kept) / sum(kept.values())
    assert dial.mean_bytes(0) == pytest.approx(mean)


def test_the_same_word_is_drawn_again_and_another_for_anything_else():
    per_record = a_dial(Mixture({1: 1, 2: 1, 3: 1, 4: 1}), 1000, 1000)

    def records(**more):
        return [chosen(per_record, record=r, **more) for r in range(64)]

    base = records()
    assert records() == base
    for more in ({"seed": 1}, {"epoch": 1}, {"source": 1}):
        assert records(**more) != base
    assert [chosen(per_record, [7, 8], record=r) for r in range(64)] == base
    per_sample = a_dial(Mixture({1: 1, 2: 1, 3: 1, 4: 1}, per="sample"), 1000)
    one = chosen(per_sample, range(64), record=3)
    assert one == chosen(per_sample, range(64), record=4)
    assert one[10:20] == chosen(per_sample, range(10, 20))
    assert list(one) != base


@pytest.mark.parametrize(
    ("fidelity", "expected"),
    [(3, False), (Mixture({1: 1, 2: 1}), False), (Mixture({1: 1, 2: 1}, per="sample"), True)],
    ids=["one", "per-record", "per-sample"],
)
def test_who_may_differ_within_a_record(fidelity, expected):
    assert a_dial(fidelity).is_per_sample(0) is expected


# ---- a fidelity for each image


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_each_image_has_its_own(kind):
    each = [i % 5 + 1 for i in range(30)]
    dial = a_dial(kind(each), 10, 20)
    assert chosen(dial, range(10)) == tuple(each[:10])
    assert chosen(dial, [0, 5], source=1) == 1
    assert chosen(dial, [19, 3], source=1) == (each[29], each[13])
    assert dial.is_per_sample(0)
    assert dial.is_per_sample(1)
    assert dial.mean_bytes(0) == SIZES[-1]


def test_each_is_resolved_for_its_dataset():
    dial = SharedFidelity([a_manifest(2, 5), a_manifest(2, 3)], ["full", 1, "full", 1])
    assert chosen(dial, [0, 1]) == (5, 1)
    assert chosen(dial, [0, 1], source=1) == (3, 1)
    with pytest.raises(FidelityError, match=r"1\.\.3, got 5"):
        dial.set([5, 5, 5, 5])


def test_each_follows_only_each():
    dial = a_dial(3)
    with pytest.raises(OptionError, match="begin with one"):
        dial.set([1] * 100)
    dial = a_dial([1, 2] * 50)
    dial.set(4)
    assert chosen(dial) == 4
    assert not dial.is_per_sample(0)
    dial.set([5, 2] * 50)
    assert chosen(dial) == (5, 2, 5)


# ---- processes


def test_a_forked_process_sees_what_is_set_later():
    dial = a_dial([1] * 100)
    go = get_context("fork").Semaphore(0)

    def child():
        go.acquire()
        return chosen(dial, range(4))

    def turn():
        dial.set([5, 1] * 50)
        go.release()

    threading.Timer(0.2, turn).start()
    assert in_child(child) == str((5, 1, 5, 1))


def _worker(dial, go, back):
    for _ in range(3):
        go.get()
        back.put(chosen(dial, range(4)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_that_is_started_shares_the_dial(method):
    context = get_context(method)
    dial = a_dial([1] * 100)
    go, back = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_worker, args=(dial, go, back))
    process.start()
    seen = []
    for fidelity in ([1, 2] * 50, 4, "full"):
        dial.set(fidelity)
        go.put(None)
        seen.append(back.get())
    process.join()
    assert seen == [(1, 2, 1, 2), 4, 5]


@pytest.mark.parametrize("fidelity", [3, Mixture({2: 1, 4: 2}), [1, 4] * 50], ids=str)
def test_anywhere_else_a_pickle_is_a_copy(fidelity):
    dial = a_dial(fidelity)
    copy = pickle.loads(pickle.dumps(dial))  # noqa: S301 - our own bytes
    assert [chosen(copy, record=r) for r in range(9)] == [chosen(dial, record=r) for r in range(9)]
    copy.set(5)
    assert chosen(copy) == 5
    assert [chosen(dial, record=r) for r in range(9)] == [
        chosen(a_dial(fidelity), record=r) for r in range(9)
    ]
    if isinstance(fidelity, list):
        copy.set([2, 3] * 50)
        assert chosen(copy) == (2, 3, 2)


@given(
    st.dictionaries(st.integers(1, 7), st.floats(0, 1e6, allow_subnormal=False), min_size=1),
    st.sampled_from(["record", "sample"]),
)
def test_whatever_has_a_weight_can_be_drawn_and_nothing_else(weights, per):
    if not max(weights.values()) > 0:
        return
    sizes = tuple(range(100, 800, 100))
    seven = replace(
        a_manifest(),
        group_labels=tuple("abcdefg"),
        totals=Totals(sources=1, groups=(100 * 100,) * 7, headers=50, restore=5),
    )
    dial = SharedFidelity([seven], Mixture(weights, per=per))
    drawn = {
        k
        for record in range(40)
        for k in np.atleast_1d(chosen(dial, range(record * 9, record * 9 + 9), record))
    }
    assert drawn <= {k for k, w in weights.items() if w > 0}
    least, most = (f(sizes[k - 1] for k, w in weights.items() if w > 0) for f in (min, max))
    assert least - 1e-6 <= dial.mean_bytes(0) <= most + 1e-6


def _report(dial, number, go, back):
    go.get()
    back.put((chosen(dial, range(4)), number.value))


def test_memory_that_was_shared_is_not_given_to_the_next_one():
    context = get_context("spawn")
    go, back = context.SimpleQueue(), context.SimpleQueue()
    given = (a_dial([1, 2] * 50), SharedNumber(3), go, back)
    process = context.Process(target=_report, args=given)
    process.start()
    del given
    others = [(a_dial([5] * 100), SharedNumber(9)) for _ in range(20)]
    go.put(None)
    assert back.get() == ((1, 2, 1, 2), 3)
    process.join(60)
    assert len(others) == 20
