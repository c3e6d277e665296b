"""Both placements name every byte of a region once, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.core.checksum import record_seed
from pcrstore.core.ranges import ByteRange
from pcrstore.format.index import Run
from pcrstore.format.names import array_name
from pcrstore.format.placement import ArrayPlacement, ObjectPlacement, chunk_ranges
from pcrstore.format.record import header_size

UID = bytes(range(16))


def run(lengths=(10, 20, 5), start=100, n_images=3):
    return ObjectPlacement(
        runs=(Run(name="objects/a.pcr", uid=UID.hex(), n_bytes=9999),),
        ordinal=4,
        n_images=n_images,
        starts=(start,),
        lengths=lengths,
    )


def array(lengths=(10, 20, 5), starts=(95, 0, 7), chunks=(100, 8, 12)):
    return ArrayPlacement(
        runs=tuple(
            Run(name=f"zarr/a/{array_name(g, 2)}", uid=UID.hex(), n_bytes=9999, chunk=chunk)
            for g, chunk in enumerate(chunks)
        ),
        ordinal=4,
        n_images=3,
        starts=starts,
        lengths=lengths,
    )


@pytest.mark.parametrize("k", [1, 2])
def test_a_record_is_one_prefix(k):
    size = header_size(3, 2)
    assert run().prefix(k) == [ByteRange("objects/a.pcr", 100, 100 + size + (10, 30)[k - 1])]


def test_regions_of_a_run_follow_each_other():
    base = 100 + header_size(3, 2)
    got = [r for g, n in enumerate((10, 20, 5)) for r in run().locate(g, 0, n)]
    assert [(r.start - base, r.stop - base) for r in got] == [(0, 10), (10, 30), (30, 35)]


def test_a_stretch_of_an_array_is_cut_where_chunks_end():
    assert array().prefix(1) == [
        ByteRange("zarr/a/group_1/c/0", 95, 100),
        ByteRange("zarr/a/group_1/c/1", 0, 5),
    ]
    assert array().locate(2, 0, 5) == [ByteRange("zarr/a/restore/c/0", 7, 12)]


@pytest.mark.parametrize("placement", [run(), array()], ids=["run", "array"])
def test_both_are_bound_to_their_object_and_ordinal(placement):
    assert placement.seed == record_seed(UID, 4)


CHUNKS = {
    "empty": (5, 5, []),
    "inside": (2, 7, [(0, 2, 7)]),
    "to-the-end": (2, 10, [(0, 2, 10)]),
    "from-the-start": (10, 12, [(1, 0, 2)]),
    "one-over": (2, 11, [(0, 2, 10), (1, 0, 1)]),
    "three": (9, 21, [(0, 9, 10), (1, 0, 10), (2, 0, 1)]),
}


@pytest.mark.parametrize(("start", "stop", "expected"), CHUNKS.values(), ids=CHUNKS)
def test_chunks_of_ten(start, stop, expected):
    assert chunk_ranges("x", start, stop, 10) == [
        ByteRange(f"x/c/{chunk}", a, b) for chunk, a, b in expected
    ]


@given(start=st.integers(0, 500), n=st.integers(0, 300), size=st.integers(1, 90))
def test_chunk_ranges_name_every_byte_once(start, n, size):
    got = [
        int(r.name.removeprefix("x/c/")) * size + offset
        for r in chunk_ranges("x", start, start + n, size)
        for offset in range(r.start, r.stop)
    ]
    assert got == list(range(start, start + n))


def test_arrays_have_names():
    assert [array_name(g, 7) for g in (0, 6, 7)] == ["group_1", "group_7", "restore"]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("placement", [run(), array()], ids=["run", "array"])
def test_groups_are_the_prefix_in_pieces(placement, k):
    groups = placement.groups(k)
    assert len(groups) >= k
    assert b"".join(content(groups)) == b"".join(content(placement.prefix(k)))


def test_the_header_comes_with_the_first_group():
    first = 100 + header_size(3, 2) + 10
    assert run().groups(1) == run().prefix(1) == [ByteRange("objects/a.pcr", 100, first)]
    assert run().groups(2)[1:] == [ByteRange("objects/a.pcr", first, first + 20)]
    assert run(lengths=(10, 0, 5)).groups(2)[1:] == [ByteRange("objects/a.pcr", first, first)]


def content(ranges):
    """The address of every byte of some ranges, as text."""
    return [f"{r.name}:{at} ".encode() for r in ranges for at in range(r.start, r.stop)]
