"""Random numbers that are functions of their purpose: of (seed, epoch, image) and the like.

Pure. A generator with a state would make the order of calls part of the result, and NumPy does not
promise its generators' streams from release to release. Here every number is SplitMix64 (Steele,
Lea, Flood, OOPSLA 2014, doi:10.1145/2660193.2660195) of a key and a counter, so that any process
can compute any of them, in any order, on any version.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["hashes", "key_of", "uniforms"]

_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1
_TO_UNIT: Final = 2.0**-53
"""A double has 53 bits of mantissa."""


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _mixed_all(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def key_of(*words: int) -> int:
    """Return a 64-bit key for a tuple of integers; another tuple, another key.

    >>> key_of(0, 1) != key_of(1, 0)
    True
    """
    key = 0
    for word in words:
        key = _mixed((key + _GAMMA + word) & _MASK)
    return key


def hashes(key: int, values: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of every value, as if it were one more word of the key.

    >>> int(hashes(key_of(7), np.array([5]))[0]) == key_of(7, 5)
    True
    """
    return _mixed_all(values.astype(np.uint64) + np.uint64((key + _GAMMA) & _MASK))


def uniforms(keys: NDArray[np.uint64], n: int) -> NDArray[np.float64]:
    """Return n numbers, uniform in [0, 1), for every key.

    Returns:
        (len(keys), n). Number i of a key does not depend on n or on the other keys.

    >>> u = uniforms(np.array([key_of(0, 0, 1)], np.uint64), 3)
    >>> bool((u == uniforms(np.array([9, key_of(0, 0, 1)], np.uint64), 4)[1:, :3]).all())
    True
    """
    counters = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    bits = _mixed_all(keys[:, None] + counters) >> np.uint64(11)
    return bits.astype(np.float64) * _TO_UNIT
