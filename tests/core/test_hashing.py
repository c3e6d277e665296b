"""Random numbers are SplitMix64's, and functions of their keys alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.hashing import hashes, key_of, uniforms

WORDS = st.integers(0, 2**64 - 1)

STREAMS = {
    # seed: its first outputs. 0: java.util.SplittableRandom(0); 1234567: rosettacode.org,
    # "Pseudo-random numbers/Splitmix64".
    0: (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC),
    1234567: (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431),
}
"""Published streams of the generator."""

KEYS = {
    (): 0,
    (0,): 0xE220A8397B1DCDAF,
    (1,): 0x910A2DEC89025CC1,
    (0, 0): 0xA706DD2F4D197E6F,
    (0, 1): 0x2A98F501AF37E97F,
    (1, 0): 0x5E41AB087439611E,
    (3, 2, 1): 0xD62A7F6E291FEF64,
    (2**64 - 1,): 0xE4D971771B652C20,
}
"""Keys that every release makes."""


@pytest.mark.parametrize("seed", STREAMS)
def test_the_numbers_of_a_key_are_the_published_stream(seed):
    found = uniforms(np.array([seed], np.uint64), 4)
    wanted = [(x >> 11) / 2**53 for x in STREAMS[seed]]
    assert found.tolist() == [wanted]


@pytest.mark.parametrize("words", KEYS)
def test_keys_are_those_of_other_releases(words):
    assert key_of(*words) == KEYS[words]


@settings(deadline=None)
@given(st.lists(WORDS, max_size=3), st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_a_hash_is_the_key_of_one_more_word(words, values):
    found = hashes(key_of(*words), np.array(values, np.int64))
    assert found.dtype == np.uint64
    assert found.tolist() == [key_of(*words, value) for value in values]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_the_type_of_values_does_not_matter(dtype):
    assert (
        hashes(7, np.array([0, 1, 127], dtype)).tolist()
        == hashes(7, np.array([0, 1, 127])).tolist()
    )


@settings(deadline=None)
@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=4))
def test_other_words_make_another_key(a, b):
    assert (key_of(*a) == key_of(*b)) == (a == b)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=4), st.integers(0, 9))
def test_a_number_depends_on_its_key_and_place_alone(keys, n):
    found = uniforms(np.array(keys, np.uint64), n)
    assert found.shape == (len(keys), n)
    for key, row in zip(keys, found.tolist(), strict=True):
        assert uniforms(np.array([key], np.uint64), 9)[0, :n].tolist() == row


def test_numbers_are_uniform_below_one():
    found = uniforms(hashes(1, np.arange(10_000)), 4)
    assert found.min() >= 0
    assert found.max() < 1
    for column in found.T:
        counts = np.histogram(column, 50, (0, 1))[0]
        # Chi-square of 49 degrees of freedom: 85 is passed once in a thousand.
        assert ((counts - 200) ** 2 / 200).sum() < 85
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.04


def test_the_greatest_number_is_below_one():
    # The key whose first output is all ones: the output's way back through SplitMix64.
    z = 2**64 - 1
    for shift, mix in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        whole = z
        for _ in range(3):
            whole = z ^ (whole >> shift)
        z = whole * pow(mix, -1, 2**64) % 2**64
    key = (z - 0x9E3779B97F4A7C15) % 2**64
    assert uniforms(np.array([key], np.uint64), 1).tolist() == [[1 - 2.0**-53]]


@pytest.mark.parametrize("modulus", [2, 64, 1000])
def test_hashes_of_neighbours_are_uniform_below_a_window(modulus):
    counts = np.bincount(
        (hashes(key_of(2, 0, 0), np.arange(64_000)) % np.uint64(modulus)).astype(int)
    )
    mean = 64_000 / modulus
    chi = ((counts - mean) ** 2 / mean).sum()
    assert chi < modulus + 5 * (2 * modulus) ** 0.5
