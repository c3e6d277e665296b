"""Packing puts every sample into one record, and stays as it is when workers change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.conversion.packing import pack, shuffled
from pcrstore.format.record import MAX_IMAGES

CUTS = {
    # id: (sizes, record_bytes, record_images, object_bytes, records per unit)
    "nothing": ([], 10, None, 10, []),
    "one": ([5], 10, None, 10, [[1]]),
    "bytes-at-limit": ([5, 5, 5], 10, None, 99, [[2, 1]]),
    "bytes-over-limit": ([5, 6, 5], 10, None, 99, [[1, 1, 1]]),
    "one-image-over-limit": ([50, 1], 10, None, 99, [[1, 1]]),
    "images-at-limit": ([1, 1, 1], None, 3, 99, [[3]]),
    "images-over-limit": ([1, 1, 1, 1], None, 3, 99, [[3, 1]]),
    "whichever-comes-first": ([1, 1, 9, 1], 10, 2, 99, [[2, 2]]),
    "object-at-limit": ([5, 5], 5, None, 10, [[1, 1]]),
    "object-over-limit": ([5, 6], 6, None, 10, [[1], [1]]),
    "one-record-over-object": ([50, 5], 60, 1, 10, [[1], [1]]),
    "images-at-1-gib": ([2**29, 2**29, 1], None, 9, 2**40, [[2, 1]]),
    "images-over-1-gib": ([2**29, 2**29 + 1, 1], None, 9, 2**40, [[1, 2]]),
    "bytes-over-1-gib": ([2**29, 2**29 + 1], 2**40, None, 2**40, [[1, 1]]),
    "empty-files": ([0, 0, 0], 10, 2, 10, [[2, 1]]),
}


@pytest.mark.parametrize(
    ("sizes", "record_bytes", "record_images", "object_bytes", "expected"), CUTS.values(), ids=CUTS
)
def test_cuts(sizes, record_bytes, record_images, object_bytes, expected):
    units = pack(
        sizes, record_bytes=record_bytes, record_images=record_images, object_bytes=object_bytes
    )
    assert [[r.stop - r.start for r in u.records] for u in units] == expected
    assert [u.number for u in units] == list(range(len(units)))


@pytest.mark.parametrize("record_images", [None, MAX_IMAGES + 5])
def test_a_record_has_as_many_images_as_its_header_can_say(record_images):
    units = pack(
        [0] * (MAX_IMAGES + 1),
        record_bytes=10,
        record_images=record_images,
        object_bytes=10,
    )
    assert [r.stop - r.start for u in units for r in u.records] == [MAX_IMAGES, 1]


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    record_bytes=st.none() | st.integers(1, 50),
    record_images=st.integers(1, 9),
    object_bytes=st.integers(1, 90),
)
def test_every_sample_is_in_one_record(sizes, record_bytes, record_images, object_bytes):
    units = pack(
        sizes, record_bytes=record_bytes, record_images=record_images, object_bytes=object_bytes
    )
    spans = [r for u in units for r in u.records]
    assert [i for r in spans for i in range(r.start, r.stop)] == list(range(len(sizes)))
    for span in spans:
        n = span.stop - span.start
        assert 1 <= n <= record_images
        assert record_bytes is None or n == 1 or sum(sizes[span.start : span.stop]) <= record_bytes
    for unit in units:
        total = sum(sum(sizes[r.start : r.stop]) for r in unit.records)
        assert len(unit.records) == 1 or total <= object_bytes


keys = st.lists(st.text(max_size=6), unique=True, max_size=30)


@given(keys=keys, seed=st.integers(-(2**63), 2**63 - 1))
def test_shuffling_is_an_order_of_all(keys, seed):
    order = shuffled(keys, seed=seed)
    assert sorted(order) == list(range(len(keys)))
    assert order == shuffled(keys, seed=seed)


@given(keys=keys.filter(bool), seed=st.integers(0, 9))
def test_a_new_key_moves_no_other(keys, seed):
    def ordered(some):
        return [some[i] for i in shuffled(some, seed=seed)]

    before = ordered(keys[1:])
    assert [k for k in ordered(keys) if k != keys[0]] == before


def test_the_order_depends_on_keys_and_seed_alone():
    keys = [f"cat/{i}.jpg" for i in range(50)]
    order = [keys[i] for i in shuffled(keys, seed=0)]
    backwards = keys[::-1]
    assert [backwards[i] for i in shuffled(backwards, seed=0)] == order
    assert shuffled(keys, seed=1) != shuffled(keys, seed=0)
    # A dataset converted today must be resumable, and be the same, for ever.
    assert order[:3] == ["cat/11.jpg", "cat/10.jpg", "cat/30.jpg"]


def test_keys_that_are_no_utf8_can_be_shuffled():
    assert sorted(shuffled(["a", "\udcff"], seed=0)) == [0, 1]


@pytest.mark.parametrize(("n", "n_units"), [(65_536, 1), (65_537, 2), (131_073, 3)])
def test_a_unit_has_as_many_images_as_an_index_part(n, n_units):
    """Its note in the journal is one."""
    units = pack([10] * n, record_bytes=None, record_images=256, object_bytes=2**30)
    assert len(units) == n_units
    assert max(u.records[-1].stop - u.records[0].start for u in units) <= 65_536
