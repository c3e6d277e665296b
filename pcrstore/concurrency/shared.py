"""Memory that a process shares with the worker processes which it starts.

    process: number.value = 4 --> one 64-bit word <-- worker: number.value

A word is stored and loaded whole, so that no lock is needed and nobody sees half a change. Memory
is shared with a process that is being started, and copied into every other pickle.
"""

import ctypes
from collections.abc import Mapping
from multiprocessing import context
from multiprocessing.sharedctypes import RawValue
from typing import Any, Final
from weakref import WeakKeyDictionary

from pcrstore.core import integer

__all__ = ["SharedNumber", "share_with_started"]

_MAX_NUMBER: Final = 2**62
"""Largest shared number, within the 63 bits of its word."""

_SHARED: Final[WeakKeyDictionary[object, list[object]]] = WeakKeyDictionary()
"""Memory that each started process shares, kept while that process is known. The heap of
multiprocessing would otherwise give the block of an owner that is gone to the next one, and the
worker would see its values."""


def share_with_started(*memory: object) -> bool:
    """Say whether a process is being started, and keep the memory for as long as it runs.

    To be called by `__getstate__`: True means that the memory itself may go into the pickle, as
    only a process that is being started can share it; False means that a copy has to.
    """
    starting = context.get_spawning_popen()
    if starting is not None:
        _SHARED.setdefault(starting, []).extend(memory)
    return starting is not None


class SharedNumber:
    """An integer that this process sets and its workers see; a copy in any other process.

    Args:
        value: To begin with, in 0..2^62.
        name: The word for the number in messages.

    Raises:
        OptionError: Set to something that is not an integer in 0..2^62; the word of 64 bits would
            hold another number instead.
    """

    def __init__(self, value: int, name: str) -> None:
        self._name = name
        self._word = RawValue(ctypes.c_int64, self._checked(value))

    def __getstate__(self) -> dict[str, Any]:
        """Share the memory with a process that is being started; copy it anywhere else."""
        word = self._word if share_with_started(self._word) else self.value
        return {"_name": self._name, "_word": word}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        word = state["_word"]
        self._name = state["_name"]
        self._word = RawValue(ctypes.c_int64, word) if isinstance(word, int) else word

    @property
    def value(self) -> int:
        """The number as it is now."""
        return int(self._word.value)

    @value.setter
    def value(self, value: int) -> None:
        self._word.value = self._checked(value)

    def _checked(self, value: object) -> int:
        return integer(value, self._name, least=0, most=_MAX_NUMBER)
