"""CRC32C is the one of RFC 3720, and the words that bind it to a place are those of FORMAT.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.core.checksum import crc32c, place_words, record_seed

VECTORS = {
    # RFC 3720, appendix B.4, as the 32-bit value whose bytes stand there low byte first.
    "zeros": (bytes(32), 0x8A9136AA),
    "ones": (b"\xff" * 32, 0x62A8AB43),
    "ascending": (bytes(range(32)), 0x46DD794E),
    "descending": (bytes(range(31, -1, -1)), 0x113FDB5C),
    "check": (b"123456789", 0xE3069283),
    "empty": (b"", 0),
}


@pytest.mark.parametrize(("data", "expected"), VECTORS.values(), ids=VECTORS)
def test_vectors_of_the_rfc(data, expected):
    assert crc32c(data) == expected


def test_a_seed_depends_on_object_and_ordinal():
    uids, ordinals = [bytes(16), bytes(15) + b"\x01"], [0, 1, 2**32 - 1]
    seeds = {record_seed(u, o) for u in uids for o in ordinals}
    assert len(seeds) == 6
    assert record_seed(bytes(16), 1) == crc32c(bytes(16) + b"\x01" + bytes(7))


@given(
    seed=st.integers(0, 2**32 - 1),
    n_images=st.integers(1, 40),
    n_groups=st.integers(1, 8),
)
def test_words_are_those_of_the_format(seed, n_images, n_groups):
    words = place_words(seed, n_images, n_groups)
    assert words.shape == (n_images, n_groups)
    assert words.dtype == np.uint32
    assert words.tolist() == [
        [(seed + i * 0x9E3779B1 + g * 0x85EBCA6B) % 2**32 for g in range(n_groups)]
        for i in range(n_images)
    ]


def test_words_of_some_images_are_those_of_all():
    some, everything = place_words(77, [65_534, 0, 5], 8), place_words(77, 65_535, 8)
    assert np.array_equal(some, everything[[65_534, 0, 5]])


def test_no_two_cells_of_the_largest_record_share_a_word():
    words = place_words(12345, 65_535, 8)
    assert len(np.unique(words)) == words.size
