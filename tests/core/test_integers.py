"""Integers of any type come out as Python's own; nothing else does."""

import json
import re

import numpy as np
import pytest

from pcrstore.core.integers import integer
from pcrstore.errors import OptionError

GOOD = [0, 1, 2**70, np.int64(3), np.uint8(255), np.array(4)]


@pytest.mark.parametrize("value", GOOD, ids=repr)
def test_integers_become_pythons_own(value):
    found = integer(value, "n", least=0)
    assert type(found) is int
    assert found == value
    assert json.dumps(found)


BAD = [True, False, np.True_, 1.0, np.float64(1), "1", b"1", None, (1,), [1], np.arange(2), 1j]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_what_is_no_integer_is_refused_by_name(value):
    says = f"n_threads must be an integer of at least 0, got {value!r}"
    with pytest.raises(OptionError, match=re.escape(says)):
        integer(value, "n_threads", least=0)


@pytest.mark.parametrize("least", [-1, 0, 1])
def test_the_least_is_the_least(least):
    assert integer(np.int8(least), "n", least=least) == least
    with pytest.raises(OptionError, match=f"at least {least}, got {least - 1}"):
        integer(least - 1, "n", least=least)


@pytest.mark.parametrize("most", [0, 1, 2**62])
def test_the_most_is_the_most(most):
    assert integer(most, "n", least=0, most=most) == most
    with pytest.raises(OptionError, match=f"n must be at most {most}, got {most + 1}"):
        integer(most + 1, "n", least=0, most=most)
