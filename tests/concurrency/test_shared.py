"""A shared number is one for this process and the workers it starts, and a copy elsewhere."""

import gc
import pickle
from multiprocessing import get_context
from weakref import ref

import numpy as np
import pytest

from pcrstore.concurrency.shared import SharedNumber
from pcrstore.errors import OptionError


def test_a_number_is_shared_with_workers_and_copied_elsewhere():
    number = SharedNumber(3, "epoch")
    copy = pickle.loads(pickle.dumps(number))  # noqa: S301 (our own bytes)
    number.value = 4
    assert (number.value, copy.value) == (4, 3)
    process = get_context("spawn").Process(target=_set_to_nine, args=(number,))
    process.start()
    process.join(60)
    assert number.value == 9


@pytest.mark.parametrize("value", [0, 2**62, np.int64(5)])
def test_an_epoch_may_be_so_large(value):
    number = SharedNumber(value, "epoch")
    number.value = value
    assert number.value == value


@pytest.mark.parametrize("value", [-1, 2**62 + 1, 2**64 + 5, 10**30, 1.0, "1", None, True])
def test_an_epoch_that_would_be_read_as_another_is_refused(value):
    number = SharedNumber(3, "epoch")
    with pytest.raises(OptionError, match="epoch must be"):
        number.value = value
    with pytest.raises(OptionError, match="epoch must be"):
        SharedNumber(value, "epoch")
    assert number.value == 3


def _set_to_nine(number):
    number.value = 9


def test_a_number_is_called_by_its_name():
    number = pickle.loads(pickle.dumps(SharedNumber(0, "a flag")))  # noqa: S301 (our own bytes)
    with pytest.raises(OptionError, match="a flag must be"):
        number.value = -1


def test_memory_is_kept_no_longer_than_the_process_that_shares_it():
    number = SharedNumber(3, "epoch")
    process = get_context("spawn").Process(target=_set_to_nine, args=(number,))
    process.start()
    process.join(60)
    word = ref(number._word)
    del number
    assert word() is not None
    del process
    gc.collect()
    assert word() is None
