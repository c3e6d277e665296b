"""The fidelity of a loader while it runs: set in one process, read at every request in all.

    loader.fidelity = 5 ──▶ a 64-bit word per dataset, shared ◀── workers, at each request

The word holds how the fidelity is drawn (per record or per sample) and a weight for each group. It
is stored and loaded whole, so that no lock is needed and nobody sees half a change. A fidelity for
every image lies in shared bytes behind it.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.sharedctypes import RawArray
from typing import Any, Final, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import share_with_started
from pcrstore.core import hashes, key_of, real, uniforms
from pcrstore.errors import FidelityError, OptionError
from pcrstore.fidelity.targets import Fidelity, resolve
from pcrstore.format import Manifest
from pcrstore.jpeg import MAX_GROUPS

__all__ = ["Fidelities", "Mixture", "SharedFidelity"]

_SAMPLE: Final = 1 << 63
_WEIGHT_BITS: Final = 8
_MOST: Final = 2**_WEIGHT_BITS - 1
_DRAWS: Final = 0x646961  # the first word of the keys that fidelities are drawn by


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several fidelities at once, drawn anew in each epoch.

    Examples:
        >>> Mixture({3: 10, 1: 1, 5: 1})
        Mixture(weights={3: 10, 1: 1, 5: 1}, per='record')
    """

    weights: Mapping[Fidelity, float]
    """How often each is drawn, relative to the others; kept to 1/255 of the largest."""
    per: Literal["record", "sample"] = "record"
    """What is drawn for: a whole record is one read of a prefix; single samples of a record each at
    their own are one read of what all of them need together."""

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


Each = Sequence[Fidelity] | NDArray[np.integer]
Fidelities = Fidelity | Mixture | Each
"""What a loader takes: one for all, a mixture, or one for each image of the dataset."""


class SharedFidelity:
    """The fidelity of every dataset of a loader, shared with its workers.

    Args:
        manifests: Of the datasets.
        fidelity: To begin with. Only a dial that begins with a fidelity for each image can be given
            one later.

    Raises:
        FidelityError: A dataset does not have it.
    """

    def __init__(self, manifests: Sequence[Manifest], fidelity: Fidelities) -> None:
        self._manifests = tuple(manifests)
        self._words = RawArray(ctypes.c_uint64, len(self._manifests))
        self._edges = np.cumsum([0, *(m.n_images for m in self._manifests)]).tolist()
        self._each = RawArray(ctypes.c_uint8, self._edges[-1]) if _is_each(fidelity) else None
        self.set(fidelity)

    def __getstate__(self) -> dict[str, object]:
        """Share the memory with a process that is being started; copy it anywhere else."""
        state = dict(self.__dict__)
        if not share_with_started(self._words, self._each):
            state["_words"] = list(self._words)
            state["_each"] = None if self._each is None else bytes(self._each)
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["_words"], list):
            self._words = RawArray(ctypes.c_uint64, state["_words"])
            self._each = state["_each"] and RawArray(ctypes.c_uint8, state["_each"])

    def set(self, fidelity: Fidelities) -> None:
        """Turn the dial: it counts from the next record that is requested.

        Raises:
            FidelityError: A dataset does not have it.
            OptionError: A fidelity for each image, of the wrong number, or not begun with.
        """
        if _is_each(fidelity):
            self._set_each(fidelity)
            return
        if not isinstance(fidelity, Mixture):
            groups = [resolve(fidelity, m) for m in self._manifests]  # type: ignore[arg-type]  # TypeGuard does not narrow the other branch
            words = [
                _word(Mixture({k: 1.0}), m) for k, m in zip(groups, self._manifests, strict=True)
            ]
        else:
            words = [_word(fidelity, m) for m in self._manifests]
        for i, word in enumerate(words):
            self._words[i] = word

    def _set_each(self, fidelity: Each) -> None:
        if self._each is None:
            raise OptionError("a fidelity for each image can only follow another: begin with one")
        if isinstance(fidelity, np.ndarray) and fidelity.ndim != 1:
            raise OptionError(f"a row of fidelities expected, got shape {fidelity.shape}")
        if len(fidelity) != len(self._each):
            raise OptionError(f"expected {len(self._each)} fidelities, got {len(fidelity)}")
        values = fidelity.tolist() if isinstance(fidelity, np.ndarray) else list(fidelity)
        known: dict[tuple[int, Fidelity], int] = {}
        groups = np.empty(len(values), np.uint8)
        for i, m in enumerate(self._manifests):
            for at in range(self._edges[i], self._edges[i + 1]):
                key = (i, values[at])
                try:
                    groups[at] = known[key]
                except (KeyError, TypeError):  # not met before, or no fidelity at all
                    groups[at] = known[key] = resolve(values[at], m)
        np.frombuffer(memoryview(self._each), np.uint8)[:] = groups
        for i in range(len(self._manifests)):
            self._words[i] = 0

    def is_per_sample(self, source: int) -> bool:
        """Say whether the images of a record may differ in fidelity."""
        word = self._words[source]
        return word == 0 or bool(word & _SAMPLE)

    def mean_bytes(self, source: int) -> float:
        """Return the bytes of an image that a request for it is expected to move."""
        m = self._manifests[source]
        return _mean_bytes(self._words[source], m.totals.groups) / max(1, m.n_images)

    def choose(
        self, source: int, images: NDArray[np.int64], record: int, *, seed: int, epoch: int
    ) -> int | tuple[int, ...]:
        """Return the fidelity of a record, or of each of its images, as the dial stands now.

        Args:
            source: The dataset.
            images: Positions in it.
            record: Number of the record in it.
            seed: With the epoch and the record or image, what a mixture is drawn by.
            epoch: From 0.
        """
        word = self._words[source]
        if word == 0:
            if self._each is None:
                raise AssertionError("a dial without weights has a fidelity for each image")
            each = np.frombuffer(memoryview(self._each), np.uint8)[images + self._edges[source]]
            return _one_or_each(each)
        only = _only(word)
        if only is not None:
            return only
        weights = _weights(word)
        key = key_of(_DRAWS, seed, epoch, source, word >> 63)
        drawn_for = images if word & _SAMPLE else np.array([record])
        u = uniforms(hashes(key, drawn_for), 1)[:, 0]
        ends = np.cumsum(weights) / weights.sum()
        return _one_or_each(np.searchsorted(ends, u, side="right") + 1)


def _is_each(fidelity: Fidelities) -> TypeGuard[Each]:
    return isinstance(fidelity, np.ndarray) or (
        isinstance(fidelity, Sequence) and not isinstance(fidelity, str)
    )


def _one_or_each(groups: NDArray[np.integer]) -> int | tuple[int, ...]:
    first = int(groups[0])
    return first if bool((groups == first).all()) else tuple(groups.tolist())


def _word(mixture: Mixture, manifest: Manifest) -> int:
    word = _SAMPLE if mixture.per == "sample" else 0
    sums: dict[int, float] = {}
    for fidelity, weight in mixture.weights.items():
        k = resolve(fidelity, manifest)
        sums[k] = sums.get(k, 0.0) + weight
    most = max(sums.values())
    for k, weight in sums.items():
        if k > MAX_GROUPS:
            raise FidelityError(f"fidelity must be in 1..{MAX_GROUPS}, got {k}")
        # A weight that is not nothing stays more than nothing.
        word |= (max(1, round(_MOST * weight / most)) if weight else 0) << (_WEIGHT_BITS * (k - 1))
    return word


def _weights(word: int) -> NDArray[np.float64]:
    return np.array([(word >> (_WEIGHT_BITS * g)) & _MOST for g in range(MAX_GROUPS)], np.float64)


@lru_cache
def _only(word: int) -> int | None:
    """Return the fidelity of a word that has one only."""
    positive = np.flatnonzero(_weights(word))
    return int(positive[0]) + 1 if len(positive) == 1 else None


@lru_cache
def _mean_bytes(word: int, groups: tuple[int, ...]) -> float:
    """Return the mean of what the prefixes of `groups`, in bytes, have by a word's weights."""
    ends = np.cumsum(groups)
    weights = _weights(word)
    if not weights.any():
        return float(ends[-1])
    return float(weights[: len(ends)] @ ends / weights.sum())
