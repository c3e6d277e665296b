"""Ranges are merged when that pays, and every wanted byte is asked for exactly where it lies."""

from itertools import pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.core.ranges import ByteRange, Request, coalesce, divide, runs_of
from pcrstore.errors import OptionError

MERGES = {
    # id: (wanted as (start, stop), max_gap, max_size, requests as (start, stop, members))
    "nothing": ([], 10, 100, []),
    "one": ([(5, 9)], 0, 100, [(5, 9, (0,))]),
    "empty-range": ([(5, 5)], 0, 100, []),
    "empty-range-inside": ([(5, 9), (6, 6)], 0, 100, [(5, 9, (0,))]),
    "gap-under-limit": ([(0, 5), (14, 20)], 10, 100, [(0, 20, (0, 1))]),
    "gap-at-limit": ([(0, 5), (15, 20)], 10, 100, [(0, 20, (0, 1))]),
    "gap-over-limit": ([(0, 5), (16, 20)], 10, 100, [(0, 5, (0,)), (16, 20, (1,))]),
    "touching-gap-0": ([(0, 5), (5, 9)], 0, 100, [(0, 9, (0, 1))]),
    "touching-gap-minus-1": ([(0, 5), (5, 9)], -1, 100, [(0, 5, (0,)), (5, 9, (1,))]),
    "overlap-gap-minus-1": ([(0, 5), (4, 9)], -1, 100, [(0, 9, (0, 1))]),
    "repeated": ([(0, 5), (0, 5)], -1, 100, [(0, 5, (0, 1))]),
    "inside": ([(0, 9), (2, 5)], -1, 100, [(0, 9, (0, 1))]),
    "size-at-limit": ([(0, 5), (5, 10)], 0, 10, [(0, 10, (0, 1))]),
    "size-over-limit": ([(0, 5), (5, 11)], 0, 10, [(0, 5, (0,)), (5, 11, (1,))]),
    "single-over-limit": ([(0, 50)], 0, 10, [(0, 50, (0,))]),
    "order-of-wanted-is-kept-in-members": ([(6, 9), (0, 5)], 1, 99, [(0, 9, (1, 0))]),
}


@pytest.mark.parametrize(("wanted", "max_gap", "max_size", "expected"), MERGES.values(), ids=MERGES)
def test_merges(wanted, max_gap, max_size, expected):
    got = coalesce([ByteRange("a", *r) for r in wanted], max_gap=max_gap, max_size=max_size)
    assert list(got.requests) == [
        Request(range=ByteRange("a", a, b), members=m) for a, b, m in expected
    ]


def test_objects_are_never_merged():
    got = coalesce([ByteRange("b", 0, 5), ByteRange("a", 5, 9)], max_gap=100, max_size=100)
    assert [(r.range, r.members) for r in got.requests] == [
        (ByteRange("a", 5, 9), (1,)),
        (ByteRange("b", 0, 5), (0,)),
    ]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (-2, -1)])
def test_ranges_that_are_none_are_refused(start, stop):
    with pytest.raises(OptionError, match="0 <= start <= stop"):
        ByteRange("a", start, stop)


def test_a_range_has_a_length():
    assert len(ByteRange("a", 3, 3)) == 0
    assert len(ByteRange("a", 3, 10)) == 7


ranges = st.builds(
    lambda name, start, length: ByteRange(name, start, start + length),
    st.sampled_from("ab"),
    st.integers(0, 60),
    st.integers(0, 12),
)
limits = {"max_gap": st.integers(-1, 8), "max_size": st.integers(1, 30)}


def oracle(wanted, max_gap, max_size):
    """The plainest way: take ranges in order, join one to the request before it if it may be."""
    out = []
    for i in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        r = wanted[i]
        if not len(r):
            continue
        if out and out[-1][0] == r.name:
            _, start, stop, members = out[-1]
            both = max(stop, r.stop)
            if r.start < stop or (r.start <= stop + max_gap and both - start <= max_size):
                out[-1] = (r.name, start, both, (*members, i))
                continue
        out.append((r.name, r.start, r.stop, (i,)))
    return [Request(range=ByteRange(n, a, b), members=m) for n, a, b, m in out]


@given(wanted=st.lists(ranges, max_size=12), **limits)
def test_requests_hold_every_range_once(wanted, max_gap, max_size):
    requests = list(coalesce(wanted, max_gap=max_gap, max_size=max_size).requests)
    members = [i for r in requests for i in r.members]
    assert sorted(members) == [i for i, r in enumerate(wanted) if len(r)]
    for request in requests:
        for i in request.members:
            assert request.range.name == wanted[i].name
            assert request.range.start <= wanted[i].start
            assert wanted[i].stop <= request.range.stop
        assert request.range.start == wanted[request.members[0]].start
        assert request.range.stop == max(wanted[i].stop for i in request.members)
    assert requests == oracle(wanted, max_gap, max_size)
    assert [r.range for r in requests] == sorted(r.range for r in requests)


@given(wanted=st.lists(ranges, max_size=12), **limits)
def test_no_merge_over_a_gap_or_a_size(wanted, max_gap, max_size):
    for request in coalesce(wanted, max_gap=max_gap, max_size=max_size).requests:
        covered = request.range.start
        for i in request.members:
            gap = wanted[i].start - covered
            assert gap <= max(max_gap, 0)
            overlaps = gap < 0
            grown = max(covered, wanted[i].stop) - request.range.start
            assert overlaps or grown <= max_size or covered == request.range.start
            covered = max(covered, wanted[i].stop)


@given(wanted=st.lists(ranges, max_size=12), **limits)
def test_a_wider_gap_never_needs_more_requests(wanted, max_gap, max_size):
    del max_size
    narrow = coalesce(wanted, max_gap=max_gap, max_size=10**6).requests
    wide = coalesce(wanted, max_gap=max_gap + 1, max_size=10**6).requests
    assert len(wide) <= len(narrow)


@given(wanted=st.lists(ranges, max_size=12), **limits)
def test_bodies_are_split_into_what_was_wanted(wanted, max_gap, max_size):
    objects = {"a": bytes(range(100)), "b": bytes(range(100, 200))}
    merged = coalesce(wanted, max_gap=max_gap, max_size=max_size)
    bodies = [objects[r.range.name][r.range.start : r.range.stop] for r in merged.requests]
    assert merged.split(bodies) == [objects[r.name][r.start : r.stop] for r in wanted]


@pytest.mark.parametrize("n_bodies", [0, 2])
def test_a_body_too_few_or_many_is_an_error(n_bodies):
    merged = coalesce([ByteRange("a", 0, 5)], max_gap=0, max_size=9)
    with pytest.raises(ValueError, match="zip"):
        merged.split([b"12345"] * n_bodies)


DIVISIONS = {
    "empty": (0, 4, [0]),
    "under-limit": (3, 4, [3]),
    "at-limit": (4, 4, [4]),
    "over-limit": (5, 4, [2, 3]),
    "twice-limit": (8, 4, [4, 4]),
    "one-byte-parts": (3, 1, [1, 1, 1]),
}


@pytest.mark.parametrize(("n", "max_size", "expected"), DIVISIONS.values(), ids=DIVISIONS)
def test_long_ranges_are_divided_evenly(n, max_size, expected):
    assert [len(r) for r in divide(ByteRange("a", 7, 7 + n), max_size)] == expected


@given(start=st.integers(0, 2**40), n=st.integers(0, 10**4), max_size=st.integers(1, 10**4))
def test_divisions_are_the_range_again(start, n, max_size):
    parts = divide(ByteRange("a", start, start + n), max_size)
    assert (parts[0].start, parts[-1].stop) == (start, start + n)
    assert all(a.stop == b.start for a, b in pairwise(parts))
    sizes = [len(p) for p in parts]
    assert max(sizes) <= max_size
    assert max(sizes) - min(sizes) <= 1
    assert (len(parts) - 1) * max_size < max(n, 1)


RUNS = {
    # id: (sizes, limit, runs as lists of sizes)
    "nothing": ([], 10, []),
    "at-limit": ([5, 5, 1], 10, [[5, 5], [1]]),
    "over-limit": ([5, 6, 4], 10, [[5], [6, 4]]),
    "one-item-over-limit": ([11, 1, 11], 10, [[11], [1], [11]]),
    "empty-items-before-a-large-one": ([0, 0, 11], 10, [[0, 0], [11]]),
    "limit-0": ([0, 0, 1, 0], 0, [[0, 0], [1], [0]]),
}


@pytest.mark.parametrize(("sizes", "limit", "expected"), RUNS.values(), ids=RUNS)
def test_a_run_ends_before_its_limit_is_exceeded(sizes, limit, expected):
    assert [[sizes[i] for i in run] for run in runs_of(sizes, limit)] == expected


@given(
    sizes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=30),
    limits=st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(1, 7)),
)
def test_runs_hold_every_limit_and_are_as_long_as_they_can_be(sizes, limits):
    def fits(run):
        sums = (sum(sizes[i][0] for i in run), sum(sizes[i][1] for i in run), len(run))
        return all(n <= limit for n, limit in zip(sums, limits, strict=True))

    first, second = [a for a, _ in sizes], [b for _, b in sizes]
    runs = list(runs_of(first, limits[0], (second, limits[1]), (repeat(1), limits[2])))
    assert [i for run in runs for i in run] == list(range(len(sizes)))
    for run in runs:
        assert len(run) == 1 or fits(run)
    for before, after in pairwise(runs):
        assert not fits([*before, after[0]])
