"""Mixtures of fidelities as one integer, and the draws from them.

Pure. The integer, called a word, has a weight of 8 bits for each of up to 32 groups, relative to
the largest. The bit above them is 1 where every image (sample) is drawn for by itself, and 0 where
a record is drawn for:

    bit   256        255..248      39..32  31..24  23..16  15..8   7..0
          per image  group 32 ...  5       4       3       2       group 1

    Mixture({3: 10, 1: 1})               0xff001a              255 and round(255 * 1 / 10) = 26
    Mixture({5: 1}, per="sample")        1 << 256 | 0xff << 32
    one fidelity, such as 2              0xff00                a mixture of that alone

No mixture is 0, for one weight at least is over 0: in `SharedFidelity` 0 means that each image has
a fidelity of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import hashes, key_of, real, uniforms
from pcrstore.errors import OptionError
from pcrstore.fidelity.targets import Fidelity, resolve
from pcrstore.format import Manifest
from pcrstore.jpeg import MAX_GROUPS

__all__ = [
    "WORD_BYTES",
    "Fidelities",
    "FidelityPerImage",
    "Mixture",
    "draw",
    "encode_word",
    "is_per_sample",
    "mean_prefix",
    "one_or_each",
]

WORD_BYTES: Final = MAX_GROUPS + 1
"""Length of a word: a weight for each group, and the bit above them."""

_WEIGHT_BITS: Final = 8
_MOST: Final = 2**_WEIGHT_BITS - 1
_SAMPLE: Final = 1 << (_WEIGHT_BITS * MAX_GROUPS)
_DRAWS: Final = 0x646961  # the first word of the keys that fidelities are drawn by


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several fidelities at once, drawn anew in each epoch; for several datasets, see `Mix`.

    Examples:
        >>> Mixture({3: 10, 1: 1, 5: 1})
        Mixture(weights={3: 10, 1: 1, 5: 1}, per='record')
    """

    weights: Mapping[Fidelity, float]
    """Relative frequency of each fidelity, kept to 1/255 of the largest."""
    per: Literal["record", "sample"] = "record"
    """Unit of a draw. A whole record at one fidelity is one read of a prefix; samples of a record
    that differ in fidelity are one read of the bytes that all of them need together."""

    def __post_init__(self) -> None:
        if self.per not in ("record", "sample"):
            raise OptionError(f'per must be "record" or "sample", got {self.per!r}')
        if not isinstance(self.weights, Mapping):
            raise OptionError(
                f"weights must be a mapping of fidelities to numbers, got {self.weights!r}"
            )
        weights = [real(w, "a weight") for w in self.weights.values()]
        if not weights or not all(w >= 0 for w in weights):
            raise OptionError(f"weights must be 0 or more, got {dict(self.weights)}")
        if not 0 < max(weights) < float("inf"):
            raise OptionError(f"one weight at least must be over 0, got {dict(self.weights)}")


FidelityPerImage = Sequence[Fidelity] | NDArray[np.integer]
Fidelities = Fidelity | Mixture | FidelityPerImage
"""The fidelity of a loader: one for all, a mixture, or one for each image of the dataset."""


def encode_word(fidelity: Fidelity | Mixture, manifest: Manifest) -> int:
    """Return the word of a mixture, or of one fidelity, for a dataset.

    Raises:
        FidelityError: The dataset does not have one of the fidelities.
    """
    if not isinstance(fidelity, Mixture):
        fidelity = Mixture({resolve(fidelity, manifest): 1.0})
    word = _SAMPLE if fidelity.per == "sample" else 0
    sums: dict[int, float] = {}  # two fidelities may come to one group, as 5 and "full" do
    for target, weight in fidelity.weights.items():
        k = resolve(target, manifest)
        sums[k] = sums.get(k, 0.0) + weight
    most = max(sums.values())
    for k, weight in sums.items():
        # Rounding must not make a small weight 0: then its fidelity would never be drawn.
        word |= (max(1, round(_MOST * weight / most)) if weight else 0) << (_WEIGHT_BITS * (k - 1))
    return word


def is_per_sample(word: int) -> bool:
    """Return True where the images of a record may differ in fidelity."""
    return bool(word & _SAMPLE)


def draw(
    word: int, images: NDArray[np.int64], record: int, *, seed: int, epoch: int, source: int
) -> int | tuple[int, ...]:
    """Return the fidelity of a record, or of each of its images where they differ.

    The draw is a function of its arguments alone, so that every process and every resumed epoch
    draws the same.

    Args:
        word: Of the mixture.
        images: Positions in the dataset.
        record: Number of the record in the dataset.
        seed: Of the loader.
        epoch: From 0.
        source: Number of the dataset among those of the loader.
    """
    only = _only(word)
    if only is not None:
        return only
    weights = _weights(word)
    key = key_of(_DRAWS, seed, epoch, source, int(is_per_sample(word)))
    drawn_for = images if is_per_sample(word) else np.array([record])
    u = uniforms(hashes(key, drawn_for), 1)[:, 0]
    ends = np.cumsum(weights) / weights.sum()
    return one_or_each(np.searchsorted(ends, u, side="right") + 1)


@lru_cache
def mean_prefix(word: int, groups: tuple[int, ...]) -> float:
    """Return the bytes that a draw is expected to read, of groups with so many bytes each.

    >>> mean_prefix(0xFF00FF, (100, 50, 50))  # groups 1 and 3 alike: 100 or 200
    150.0
    """
    ends = np.cumsum(groups)
    weights = _weights(word)
    if not weights.any():
        return float(ends[-1])
    return float(weights[: len(ends)] @ ends / weights.sum())


def one_or_each(groups: NDArray[np.integer]) -> int | tuple[int, ...]:
    """Return the group that all images have, else that of each."""
    first = int(groups[0])
    return first if bool((groups == first).all()) else tuple(groups.tolist())


def _weights(word: int) -> NDArray[np.float64]:
    """Return the weight of each group: 0..255, (MAX_GROUPS,)."""
    weights = word.to_bytes(WORD_BYTES, "little")[:MAX_GROUPS]
    return np.frombuffer(weights, np.uint8).astype(np.float64)


@lru_cache
def _only(word: int) -> int | None:
    """Return the fidelity of a word that has no other; None where there are several."""
    positive = np.flatnonzero(_weights(word))
    return int(positive[0]) + 1 if len(positive) == 1 else None
