"""A mix reads several datasets as one, each as often as its weight says."""

from pathlib import Path

import numpy as np
import pytest
from small_datasets import a_dataset

from pcrstore.errors import OptionError
from pcrstore.sampling.mix import Mix, counts_of, mix_of, same_classes

DATASETS = [a_dataset(n=20), a_dataset(n=7, seed=50)]

MIXES = {
    "nothing": (lambda: Mix({}), "one dataset"),
    "weight-0": (lambda: Mix({"a": 0}), "over 0"),
    "weight-negative": (lambda: Mix({"a": 1, "b": -1}), "over 0"),
    "weight-endless": (lambda: Mix({"a": float("inf")}), "over 0"),
    "weight-none": (lambda: Mix({"a": float("nan")}), "over 0"),
    "list": (lambda: Mix(["a"]), "mapping of datasets to weights, got a list"),
    "text": (lambda: Mix("a"), "mapping of datasets to weights, got a str"),
    "nothing-at-all": (lambda: Mix(None), "mapping of datasets to weights, got a NoneType"),
    "number-for-a-dataset": (lambda: Mix({"a": 1, 1: 1}), "open dataset, got a int"),
    "bytes-for-a-dataset": (lambda: Mix({b"a": 1}), "open dataset, got a bytes"),
    "list-for-a-dataset": (lambda: mix_of(["a"]), "open dataset, got a list"),
    "none-for-a-dataset": (lambda: mix_of(None), "open dataset, got a NoneType"),
    "weight-text": (lambda: Mix({"a": "1"}), "a weight must be a number, got '1'"),
    "weight-boolean": (lambda: Mix({"a": True}), "a weight must be a number, got True"),
    "weight-missing": (lambda: Mix({"a": 1, "b": None}), "a weight must be a number, got None"),
    "size-0": (lambda: Mix({"a": 1}, epoch_size=0), "epoch_size must be .* at least 1, got 0"),
    "size-text": (lambda: Mix({"a": 1}, epoch_size="5"), "epoch_size must be .*, got '5'"),
    "size-fraction": (lambda: Mix({"a": 1}, epoch_size=10.5), "epoch_size must be .*, got 10.5"),
    "size-boolean": (lambda: Mix({"a": 1}, epoch_size=True), "epoch_size must be .*, got True"),
    "size-over": (lambda: Mix({"a": 1}, epoch_size=2**40 + 1), "at most 1099511627776, got"),
}


@pytest.mark.parametrize(("make", "says"), MIXES.values(), ids=MIXES)
def test_mixes_that_are_none(make, says):
    with pytest.raises(OptionError, match=says):
        make()


@pytest.mark.parametrize("size", [1, np.int64(7), 2**40])
def test_a_mix_may_have_any_integer_for_a_size(size):
    mix = Mix({"a": 1, Path("b"): np.float32(2), DATASETS[0]: 3}, epoch_size=size)
    assert (type(mix.epoch_size), mix.epoch_size) == (int, size)


@pytest.mark.parametrize("data", ["a", Path("a"), DATASETS[0]], ids=["url", "path", "open"])
def test_one_dataset_is_a_mix_of_itself(data):
    mix = mix_of(data)
    assert mix == Mix({data: 1.0})
    assert mix_of(mix) is mix


COUNTS = {
    "even": ((1, 1), None, [14, 13]),
    "as-they-are": ((20, 7), None, [20, 7]),
    "much-of-the-small": ((1, 9), None, [3, 24]),
    "sized": ((3, 1), 8, [6, 2]),
    "small": ((1, 1), 2, [1, 1]),
    "long": ((1, 1), 100, [50, 50]),
}


@pytest.mark.parametrize(("weights", "size", "expected"), COUNTS.values(), ids=COUNTS)
def test_counts_follow_weights(weights, size, expected):
    mix = Mix(dict(zip(("a", "b"), weights, strict=True)), epoch_size=size)
    assert counts_of(mix, [20, 7]) == expected


def test_counts_add_up_to_the_epoch():
    assert counts_of(Mix({"a": 1, "b": 1, "c": 1}, epoch_size=8), [9, 9, 9]) == [3, 2, 3]


def test_a_dataset_that_an_epoch_would_leave_out_is_refused():
    with pytest.raises(OptionError, match=r"100 samples has none of a dataset: \[100, 0\]"):
        counts_of(Mix({"a": 1000, "b": 1}, epoch_size=100), [20, 7])


def test_one_dataset_may_have_an_epoch_size():
    assert counts_of(Mix({"a": 2.0}, epoch_size=50), [20]) == [50]
    assert counts_of(Mix({"a": 2.0}), [20]) == [20]


def test_classes_are_those_of_the_dataset_that_has_most():
    assert same_classes(DATASETS) == ("cat", "dog")
