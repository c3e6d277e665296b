"""Money and time of a plan, and the gap that is worth reading over."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.cost.model import DEFAULT_COST, CostModel, Link, Prices, break_even_gap


def model(
    *, per_get=0.0, per_byte=0.0, latency=0.05, bandwidth=100e6, per_connection=50e6, n=4, per_s=0.0
):
    return CostModel(
        prices=Prices(name="test", per_get=per_get, per_byte=per_byte, source="test"),
        link=Link(
            bandwidth=bandwidth, per_connection=per_connection, latency=latency, concurrency=n
        ),
        per_second=per_s,
    )


def test_money_is_requests_and_bytes():
    m = model(per_get=4e-7, per_byte=9e-11)
    assert m.dollars(0, 0) == 0
    assert m.dollars(1000, 0) == pytest.approx(4e-4)
    assert m.dollars(0, 10**9) == pytest.approx(0.09)
    assert m.dollars(1000, 10**9) == pytest.approx(0.0904)


SECONDS = {
    # 100 MB/s in all, 50 MB/s a connection, 50 ms, four in flight: (requests, bytes, seconds)
    "nothing": (0, 0, 0.0),
    "one-request": (1, 0, 0.05),
    "one-connection": (1, 50_000_000, 0.05 + 1.0),
    "two-connections": (2, 100_000_000, 0.05 + 1.0),
    "link-is-full": (4, 100_000_000, 0.05 + 1.0),
    "one-wave": (4, 0, 0.05),
    "two-waves": (5, 0, 0.10),
}


@pytest.mark.parametrize(("n", "size", "seconds"), SECONDS.values(), ids=SECONDS)
def test_seconds_are_waves_of_latency_and_bytes_at_the_rate_in_use(n, size, seconds):
    assert model().seconds(n, size) == pytest.approx(seconds)


EFFECTIVE = {"few-share": (2, 50e6), "just-full": (2, 50e6), "many-share": (8, 12.5e6)}


@pytest.mark.parametrize(("n", "rate"), EFFECTIVE.values(), ids=EFFECTIVE)
def test_connections_share_the_link(n, rate):
    assert model(n=n).link.effective == rate


GAPS = {
    "free-requests": (model(latency=0.0, per_s=1.0), 0),
    # v = 1/4 $/s, b = 25 MB/s: 0.05 s of latency are worth 1.25 MB.
    "time-alone": (model(per_s=1.0), 1_250_000),
    # $4e-7 a request, $9e-11 a byte.
    "all-is-free": (model(per_get=4e-7), DEFAULT_COST.max_request),
    "money-alone": (model(per_get=4e-7, per_byte=9e-11), 4444),
}


@pytest.mark.parametrize(("m", "gap"), GAPS.values(), ids=GAPS)
def test_the_gap_is_where_a_byte_more_costs_as_much_as_a_request(m, gap):
    assert break_even_gap(m) == gap


def merged_and_apart(m, gap):
    """What one of the machine's busy connections costs, for two ranges a gap apart."""
    second = m.per_second / m.link.concurrency
    merged = gap * m.prices.per_byte + second * gap / m.link.effective
    apart = m.prices.per_get + second * m.link.latency
    return merged, apart


models = st.builds(
    model,
    per_get=st.floats(1e-9, 1e-4),
    per_byte=st.floats(0, 1e-9),
    latency=st.floats(1e-4, 1),
    bandwidth=st.floats(1e5, 1e10),
    per_connection=st.floats(1e5, 1e9),
    n=st.integers(1, 256),
    per_s=st.floats(1e-6, 1e-2),
)


@given(m=models)
def test_the_gap_keeps_the_inequality(m):
    """By brute force around it: the widest gap that is cheaper to read than a request."""
    gap = break_even_gap(m)
    for wider in (-2, -1, 0, 1, 2):
        merged, apart = merged_and_apart(m, max(0, gap + wider))
        if math.isclose(merged, apart, rel_tol=1e-9):
            continue
        assert (merged < apart) == (wider <= 0)


@given(m=models, factor=st.floats(1.01, 100))
def test_dearer_requests_widen_the_gap_and_dearer_bytes_narrow_it(m, factor):
    slow = dataclasses.replace(m.link, latency=m.link.latency * factor)
    dear = dataclasses.replace(m.prices, per_byte=(m.prices.per_byte + 1e-12) * factor)
    assert break_even_gap(dataclasses.replace(m, link=slow)) >= break_even_gap(m)
    assert break_even_gap(dataclasses.replace(m, prices=dear)) <= break_even_gap(m)


@given(m=models, n=st.integers(1, 300), size=st.integers(0, 10**10))
def test_seconds_never_beat_the_link_or_the_latency(m, n, size):
    seconds = m.seconds(n, size)
    assert seconds >= size / m.link.bandwidth * (1 - 1e-9)
    assert seconds >= m.link.latency * (n / m.link.concurrency) * (1 - 1e-9)


def test_the_default_gap_lies_where_it_was_measured():
    """0.5 to 1 MB at 16 in flight, 16 MiB the largest request."""
    assert 100_000 < break_even_gap(DEFAULT_COST) < 1_000_000
    assert DEFAULT_COST.max_request == 16 * 2**20
    assert DEFAULT_COST.prices.source.startswith("https://")
