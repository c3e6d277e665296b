"""The fidelity of a loader while it runs: set in one process, read at every request in all.

    loader.fidelity = 5 ──▶ a row of bytes per dataset, in shared memory ◀── workers, per request

    row     number of the slot that counts (1 byte), slot 0, slot 1
    slot    word (33 bytes, little-endian), the CRC32C of those bytes (4 bytes, little-endian)

A word is a mixture (see `mixture`). It is written to the slot that does not count, which then
counts: a reader has a whole word also while one is written, or if its writer died. No lock is
needed, and no worker can die while it holds one. The process that made it writes alone. A word of
0 says that each image has a fidelity of its own, which lies in shared bytes, one for each image of
all datasets.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import ForkSafeLock, share_with_started
from pcrstore.core import crc32c
from pcrstore.errors import OptionError, UsageError
from pcrstore.fidelity.mixture import (
    WORD_BYTES,
    Fidelities,
    FidelityPerImage,
    draw,
    encode_word,
    is_per_sample,
    mean_prefix,
    one_or_each,
)
from pcrstore.fidelity.targets import Fidelity, resolve
from pcrstore.format import Manifest

if TYPE_CHECKING:  # in `typing` from Python 3.13 on; type checkers bring their own
    from typing_extensions import TypeIs

__all__ = ["SharedFidelity"]

_SLOT_BYTES: Final = WORD_BYTES + 4
_ROW_BYTES: Final = 1 + 2 * _SLOT_BYTES

_MOST_LOOKS: Final = 10_000
"""Reads of a row. A second one is needed only where two changes were made during the first."""


class SharedFidelity:
    """The fidelity of every dataset of a loader, shared with its workers.

    Args:
        manifests: Of the datasets.
        fidelity: The first one. Memory for a fidelity per image is made here or never, so only a
            loader that was made with one can be given another later.

    Raises:
        FidelityError: A dataset does not have the fidelity.
    """

    def __init__(self, manifests: Sequence[Manifest], fidelity: Fidelities) -> None:
        self._manifests = tuple(manifests)
        self._owner = os.getpid()
        self._writing = ForkSafeLock()
        self._rows = RawArray(ctypes.c_uint8, _ROW_BYTES * len(self._manifests))
        self._edges = np.cumsum([0, *(m.n_images for m in self._manifests)]).tolist()
        per_image = _is_per_image(fidelity)
        self._each = RawArray(ctypes.c_uint8, self._edges[-1]) if per_image else None
        self.set(fidelity)

    def __getstate__(self) -> dict[str, object]:
        """Share the memory with a process that is being started; copy it anywhere else."""
        state = {name: value for name, value in self.__dict__.items() if name != "_writing"}
        if not share_with_started(self._rows, self._each):
            state["_rows"] = [self._load(i) for i in range(len(self._manifests))]
            state["_each"] = None if self._each is None else bytes(self._each)
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._writing = ForkSafeLock()
        words = state["_rows"]
        if isinstance(words, list):
            self._owner = os.getpid()
            self._rows = RawArray(ctypes.c_uint8, _ROW_BYTES * len(words))
            for i, word in enumerate(words):
                self._store(i, word)
            self._each = state["_each"] and RawArray(ctypes.c_uint8, state["_each"])

    def set(self, fidelity: Fidelities) -> None:
        """Change the fidelity, from the next record that is requested on.

        Raises:
            FidelityError: A dataset does not have the fidelity. No dataset's is changed then.
            OptionError: A fidelity for each image: of the wrong number, or the first one was not.
            UsageError: This is a worker, or another process that was forked.
        """
        if os.getpid() != self._owner:
            raise UsageError(
                "the fidelity of a loader is set in the process that made it, not in its workers"
            )
        if _is_per_image(fidelity):
            self._set_each(fidelity)
            words = [0] * len(self._manifests)
        else:
            words = [encode_word(fidelity, m) for m in self._manifests]
        for i, word in enumerate(words):
            self._store(i, word)

    def _store(self, source: int, word: int) -> None:
        """Set a dataset's word."""
        data = word.to_bytes(WORD_BYTES, "little")
        slot = np.frombuffer(data + crc32c(data).to_bytes(4, "little"), np.uint8)
        with self._writing:
            row = self._row(source)
            other = 1 - int(row[0])
            row[1 + other * _SLOT_BYTES : 1 + (other + 1) * _SLOT_BYTES] = slot
            row[0] = other

    def _load(self, source: int) -> int:
        """Return a dataset's word."""
        for _ in range(_MOST_LOOKS):
            row = self._row(source).tobytes()
            at = 1 + row[0] * _SLOT_BYTES
            data = row[at : at + WORD_BYTES]
            if crc32c(data) == int.from_bytes(row[at + WORD_BYTES : at + _SLOT_BYTES], "little"):
                return int.from_bytes(data, "little")
        raise AssertionError("the shared fidelity was written by something else")

    def _set_each(self, fidelity: FidelityPerImage) -> None:
        if self._each is None:
            raise OptionError(
                "a loader must be made with a fidelity per image to be given one later"
            )
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
                except (KeyError, TypeError):  # not met before, or not a fidelity at all
                    groups[at] = known[key] = resolve(values[at], m)
        np.frombuffer(memoryview(self._each), np.uint8)[:] = groups

    def _row(self, source: int) -> NDArray[np.uint8]:
        rows = np.frombuffer(memoryview(self._rows), np.uint8)
        return rows[_ROW_BYTES * source : _ROW_BYTES * (source + 1)]

    def is_per_sample(self, source: int) -> bool:
        """Return True where the images of a record may differ in fidelity."""
        word = self._load(source)
        return word == 0 or is_per_sample(word)

    def mean_bytes(self, source: int) -> float:
        """Return the bytes that a request for an image is expected to move."""
        m = self._manifests[source]
        return mean_prefix(self._load(source), m.totals.groups) / max(1, m.n_images)

    def choose(
        self, source: int, images: NDArray[np.int64], record: int, *, seed: int, epoch: int
    ) -> int | tuple[int, ...]:
        """Return the fidelity that a record, or each of its images, has now.

        Args:
            source: Number of the dataset.
            images: Positions in the dataset.
            record: Number of the record in the dataset.
            seed: A mixture is drawn by this, the epoch, and the record or image.
            epoch: From 0.
        """
        word = self._load(source)
        if word:
            return draw(word, images, record, seed=seed, epoch=epoch, source=source)
        if self._each is None:
            raise AssertionError("a word of 0 means a fidelity for each image")
        each = np.frombuffer(memoryview(self._each), np.uint8)[images + self._edges[source]]
        return one_or_each(each)


def _is_per_image(fidelity: Fidelities) -> "TypeIs[FidelityPerImage]":
    return isinstance(fidelity, np.ndarray) or (
        isinstance(fidelity, Sequence) and not isinstance(fidelity, str)
    )
