"""An iteration yields its batches, ends once, and goes on in no other way."""

import gc

import pytest

from pcrstore.errors import UsageError
from pcrstore.loader.iterator import BatchIterator


class Run:
    """An iteration of n numbers, what it gave, and how often it ended."""

    def __init__(self, n=3, n_batches=None, batches=None):
        self.given = self.ended = 0
        self.iteration = BatchIterator(
            iter(range(n)) if batches is None else batches,
            n if n_batches is None else n_batches,
            on_given=self.give,
            on_ended=self.end,
        )

    def give(self):
        self.given += 1

    def end(self):
        self.ended += 1


def test_it_gives_every_batch_and_ends_once():
    run = Run()
    assert iter(run.iteration) is run.iteration
    assert list(run.iteration) == [0, 1, 2]
    assert list(run.iteration) == []
    run.iteration.close()
    assert (run.given, run.ended) == (3, 1)
    del run.iteration
    assert run.ended == 1


@pytest.mark.parametrize("n", [0, 1, 3])
def test_one_that_is_dropped_or_closed_ends(n):
    for drop in (True, False):
        run = Run()
        for _ in range(n):
            next(run.iteration)
        if drop:
            del run.iteration
            gc.collect()
        else:
            run.iteration.close()
            assert list(run.iteration) == []
        assert (run.given, run.ended) == (n, 1)


@pytest.mark.parametrize(("n", "left"), [(0, 3), (2, 1)])
def test_one_that_is_cut_off_does_not_go_on_nor_ends_what_came_after_it(n, left):
    run = Run()
    for _ in range(n):
        next(run.iteration)
    run.iteration.cut_off("enough")
    for _ in range(2):
        with pytest.raises(UsageError, match=f"enough: {left} batches"):
            next(run.iteration)
    run.iteration.close()
    del run.iteration
    assert (run.given, run.ended) == (n, 0)


def test_one_that_was_given_all_is_not_cut_off():
    run = Run()
    for _ in range(3):
        next(run.iteration)
    run.iteration.cut_off("enough")
    assert list(run.iteration) == []


@pytest.mark.parametrize("close", [False, True])
def test_one_that_is_over_is_not_cut_off(close):
    run = Run()
    next(run.iteration)
    run.iteration.close() if close else list(run.iteration)
    run.iteration.cut_off("enough")
    assert list(run.iteration) == []


def test_batches_that_end_too_early_are_no_end():
    run = Run(n=2, n_batches=3)
    with pytest.raises(UsageError, match="stopped: 1 batches"):
        list(run.iteration)
    assert (run.given, run.ended) == (2, 1)


def test_an_error_ends_it():
    run = Run(batches=(1 // (1 - i) for i in range(3)), n_batches=3)
    assert next(run.iteration) == 1
    with pytest.raises(ZeroDivisionError):
        next(run.iteration)
    assert list(run.iteration) == []
    assert (run.given, run.ended) == (1, 1)


def test_a_batch_that_comes_after_the_cut_is_not_given():
    """Another thread cuts off while this one waits."""
    runs = []
    runs.append(Run(batches=(runs[0].iteration.cut_off("enough") for _ in "abc"), n_batches=3))
    [run] = runs
    with pytest.raises(UsageError, match="enough: 3 batches"):
        next(run.iteration)
    assert (run.given, run.ended) == (0, 0)
