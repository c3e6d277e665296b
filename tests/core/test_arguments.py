"""Numbers and sizes are taken of every exact form, and nothing else is."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.core.arguments import MAX_SIZE, integer, parse_size, real
from pcrstore.errors import OptionError

GOOD_INTEGERS = [0, 1, 2**70, np.int64(3), np.uint8(255), np.array(4)]


@pytest.mark.parametrize("value", GOOD_INTEGERS, ids=repr)
def test_integers_become_pythons_own(value):
    found = integer(value, "n", least=0)
    assert type(found) is int
    assert found == value
    assert json.dumps(found)


BAD_INTEGERS = [
    True,
    False,
    np.True_,
    1.0,
    np.float64(1),
    "1",
    b"1",
    None,
    (1,),
    [1],
    np.arange(2),
    1j,
]


@pytest.mark.parametrize("value", BAD_INTEGERS, ids=repr)
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


GOOD_REALS = [0, 1.5, -1, 2**70, 2**1023, math.inf, np.float32(0.5), np.int8(-3)]


@pytest.mark.parametrize("value", GOOD_REALS, ids=repr)
def test_numbers_become_pythons_floats(value):
    found = real(value, "x")
    assert type(found) is float
    assert found == value


def test_nan_is_for_the_caller_to_refuse():
    assert math.isnan(real(math.nan, "x"))


BAD_REALS = [True, np.False_, "1", b"1", None, (1,), [1], np.arange(2), np.array(1.0), 1j]


@pytest.mark.parametrize("value", BAD_REALS, ids=repr)
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(OptionError, match=re.escape(f"flip must be a number, got {value!r}")):
        real(value, "flip")


@pytest.mark.parametrize("value", [10**309, -(10**309)], ids=["over", "under"])
def test_what_no_float_holds_is_refused(value):
    with pytest.raises(OptionError, match="flip must be at most 1e308"):
        real(value, "flip")


SIZES = {
    "zero": (0, 0),
    "bytes": (10_000, 10_000),
    "max": (2**63 - 1, 2**63 - 1),
    "text": ("1500", 1500),
    "text-zero": ("0", 0),
    "text-max": ("9223372036854775807", 2**63 - 1),
    "b": ("12b", 12),
    "B": ("12 B", 12),
    "k": ("2k", 2000),
    "kb": ("2kb", 2000),
    "KB": ("2 KB", 2000),
    "ki": ("2ki", 2048),
    "kib": ("2kib", 2048),
    "mb": ("3mb", 3 * 10**6),
    "MiB": ("64MiB", 64 * 2**20),
    "gb": ("10gb", 10**10),
    "gib": ("10gib", 10 * 2**30),
    "tb": ("4tb", 4 * 10**12),
    "TiB": ("4TiB", 4 * 2**40),
    "fraction": ("1.5 kb", 1500),
    "fraction-of-1024": ("0.5kib", 512),
    "fraction-of-a-byte": ("1.9", 1),
    "just-under-a-byte": ("0.0009999kb", 0),
    "just-a-byte": ("0.001kb", 1),
    "exact-where-a-double-is-not": ("9007199.254740993gb", 9007199254740993),
    "not-0.29-times-1000-in-doubles": ("0.29kb", 290),
    "spaces": ("  7 mb ", 7 * 10**6),
    "leading-zeros": ("007kb", 7000),
    "tib-under-the-limit": ("8388607tib", 8388607 * 2**40),
}


@pytest.mark.parametrize(("given_value", "n_bytes"), SIZES.values(), ids=SIZES)
def test_a_size_is_bytes(given_value, n_bytes):
    found = parse_size(given_value)
    assert found == n_bytes
    assert type(found) is int


WRONG = {
    "negative": -1,
    "over": 2**63,
    "far-over": 10**5000,
    "far-under": -(10**5000),
    "bool": True,
    "none": None,
    "float": 1.5,
    "nan": float("nan"),
    "bytes": b"10gb",
    "list": [1],
    "empty": "",
    "space": " ",
    "unit-only": "gb",
    "negative-text": "-1kb",
    "plus": "+1kb",
    "text-over": "9223372036854775808",
    "tib-over": "8388608tib",
    "exponent": "1e9",
    "nan-text": "nan",
    "inf-text": "inf",
    "two-dots": "1.2.3",
    "dot-first": ".5kb",
    "dot-last": "5.kb",
    "comma": "1,5kb",
    "underscore": "10_000",
    "unknown-unit": "1pb",
    "bit": "1kbit",
    "ib": "1ib",
    "two-units": "1kb1mb",
    "arabic-digits": "\N{ARABIC-INDIC DIGIT ONE}kb",
    "newline-inside": "1\nkb x",
    "long": "9" * 10_000,
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_nonsense_is_refused(value):
    with pytest.raises(OptionError, match=r"(?s)size must be .*'10gb'.*, got .") as e:
        parse_size(value)
    assert len(str(e.value)) < 200


UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20}


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)), st.booleans())
def test_a_whole_number_times_its_unit(n, unit, upper):
    text = f"{n}{unit.upper() if upper else unit}"
    assert parse_size(text) == n * UNITS[unit]


@given(st.integers(0, MAX_SIZE))
def test_bytes_are_themselves(n):
    assert parse_size(n) == parse_size(str(n)) == n
