"""Counters add up, and their line says what matters."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.loader.stats import Signals

NAMES = [f.name for f in fields(Signals)]
NUMBERS = st.fixed_dictionaries({name: st.integers(0, 10**12) for name in NAMES})


@given(NUMBERS, NUMBERS)
def test_every_counter_is_added_and_subtracted(a, b):
    total = Signals(**a) + Signals(**b)
    assert {n: getattr(total, n) for n in NAMES} == {n: a[n] + b[n] for n in NAMES}
    assert total - Signals(**b) == Signals(**a)
    assert total + Signals() == total


def test_a_line_tells_rates_and_waiting():
    line = str(
        Signals(
            samples=2000,
            seconds=4.0,
            stall_seconds=1.0,
            bytes=8_000_000,
            requests=12,
            queue_depth=3,
        )
    )
    assert line == "500 images/s, 2.0 MB/s, 4.0 kB/image, 12 GETs, stalled 25 %, queue 3"


ROWS = {
    "retries": ({"retries": 2}, ["2 retries"]),
    "hedges": ({"hedges": 1}, ["1 hedges"]),
    "cache": ({"cache_hits": 1, "cache_bytes": 1_500_000}, ["1.5 MB from the cache"]),
    "nothing": ({}, []),
}


@pytest.mark.parametrize(("numbers", "expected"), ROWS.values(), ids=ROWS)
def test_what_did_not_happen_is_not_said(numbers, expected):
    said = str(Signals(**numbers)).split(", ")
    assert said[6:] == expected


def test_a_rate_of_nothing_is_a_dash():
    """The index is read before the first epoch, in which time begins to count."""
    said = "- images/s, - MB/s, {} kB/image, 9 GETs, stalled - %, queue 0"
    assert str(Signals(requests=9)) == said.format("-")
    assert str(Signals(requests=9, bytes=139)) == said.format("-")
    assert str(Signals(requests=9, bytes=100, samples=1)) == said.format("0.1")
    assert str(Signals(seconds=2.0)).startswith("0 images/s, 0.0 MB/s, - kB/image")
