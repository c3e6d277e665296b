"""Numbers of any type come out as Python's floats; nothing else does."""

import math
import re

import numpy as np
import pytest

from pcrstore.core.reals import real
from pcrstore.errors import OptionError

GOOD = [0, 1.5, -1, 2**70, 2**1023, math.inf, np.float32(0.5), np.int8(-3)]


@pytest.mark.parametrize("value", GOOD, ids=repr)
def test_numbers_become_pythons_floats(value):
    found = real(value, "x")
    assert type(found) is float
    assert found == value


def test_nan_is_for_the_caller_to_refuse():
    assert math.isnan(real(math.nan, "x"))


BAD = [True, np.False_, "1", b"1", None, (1,), [1], np.arange(2), np.array(1.0), 1j]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(OptionError, match=re.escape(f"flip must be a number, got {value!r}")):
        real(value, "flip")


@pytest.mark.parametrize("value", [10**309, -(10**309)], ids=["over", "under"])
def test_what_no_float_holds_is_refused(value):
    with pytest.raises(OptionError, match="flip must be at most 1e308"):
        real(value, "flip")
