"""The position of a loader in its epochs: one state machine for all loaders.

Pure: no threads, no tensors. Three rules decide what an iteration reads:

1. It reads the epoch after that of the last iteration, unless `set_epoch` chose one or a state was
   loaded.
2. An iteration that has yielded nothing is no epoch: the next one reads the same.
3. A loaded position of which nothing is left is followed by the next epoch, unless `set_epoch` asks
   for that very epoch: then the iteration yields nothing.

The status of a cursor:

    READY       a position waits to be read: the first, one that was set, or one that was loaded
    BEGUN       an iteration is under way and has yielded nothing
    READING     an iteration is under way and has yielded something
    OVERRULED   an iteration is under way, and `set_epoch` has chosen what comes after it
    DONE        the last iteration has ended

Main transitions; `_TABLE` has all:

    READY ──BEGIN──▶ BEGUN ──YIELD──▶ READING ──END──▶ DONE ──BEGIN──▶ BEGUN, of the next epoch
      ▲                 │END             │SET
      └─────────────────┴──────END── OVERRULED

A loop over epochs 0 and 1 that leaves epoch 1 after a batch:

    >>> cursor = EpochCursor()
    >>> for n_batches in (2, 1):
    ...     cursor.begin(cursor.upcoming())
    ...     for _ in range(n_batches):
    ...         cursor.advance()
    ...     cursor.end()
    >>> cursor.now.epoch, cursor.n_yielded, cursor.upcoming().epoch
    (1, 1, 2)
    >>> cursor.load(Position(epoch=1, left="the rest of epoch 1", is_loaded=True))
    >>> cursor.upcoming().left
    'the rest of epoch 1'
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Generic, TypeVar

__all__ = ["TRANSITIONS", "EpochCursor", "Event", "Position", "Status"]

Left = TypeVar("Left")


class Status(Enum):
    """Status of a cursor; see the module."""

    READY = "ready"
    BEGUN = "begun"
    READING = "reading"
    OVERRULED = "overruled"
    DONE = "done"


class Event(Enum):
    """A call of a cursor."""

    BEGIN = "begin"
    YIELD = "yield"
    END = "end"
    PREPARE = "prepare"
    SET = "set"
    LOAD = "load"


_READY, _BEGUN, _READING, _OVERRULED, _DONE = Status

# fmt: off
_TABLE: Final = {
    #             BEGIN   YIELD       END     PREPARE SET         LOAD
    _READY:     (_BEGUN, _READY,     _READY, _READY, _READY,     _READY),
    _BEGUN:     (_BEGUN, _READING,   _READY, _READY, _OVERRULED, _READY),
    _READING:   (_BEGUN, _READING,   _DONE,  _READY, _OVERRULED, _READY),
    _OVERRULED: (_BEGUN, _OVERRULED, _READY, _READY, _OVERRULED, _READY),
    _DONE:      (_BEGUN, _DONE,      _DONE,  _READY, _READY,     _READY),
}
# fmt: on
# YIELD while READY: an iteration that `load` or `prepare` has put an end to is still kept and read.
# YIELD while DONE: another thread hands over a batch while the iteration is ended.

TRANSITIONS: Final = {status: dict(zip(Event, row, strict=True)) for status, row in _TABLE.items()}
"""Status after each event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position(Generic[Left]):
    """The start of an iteration: an epoch, or what is left of one."""

    epoch: int
    left: Left | None = None
    """Rest of the epoch, in the terms of the loader; None: all of it."""
    is_loaded: bool = False
    """True: the position is of a state that was loaded."""
    is_asked_for: bool = False
    """True: `set_epoch` asked for the epoch."""
    following: int | None = None
    """Epoch to read instead if nothing is left; None: the one after."""

    def after(self) -> "Position[Left]":
        """Return the start of the epoch that follows."""
        return Position(epoch=self.epoch + 1 if self.following is None else self.following)


class EpochCursor(Generic[Left]):
    """The position of a loader in its epochs.

    Args:
        status: Status to begin with; only READY and READING can be chosen.
        waiting: Position that is read next, where the status is READY.
        now: Position that is being read, where the status is READING.
    """

    def __init__(
        self,
        status: Status = Status.READY,
        *,
        waiting: Position[Left] | None = None,
        now: Position[Left] | None = None,
    ) -> None:
        self.status = status
        self.waiting: Position[Left] = waiting or Position(epoch=0)
        """Position that is read next, if the status is READY or OVERRULED."""
        self.now: Position[Left] = now or Position(epoch=0)
        """Start of the iteration under way or, where none is, of the last one; unused if READY."""
        self.n_yielded = 0
        """Batches or samples that this iteration has yielded."""

    def _on(self, event: Event) -> None:
        self.status = TRANSITIONS[self.status][event]

    @property
    def is_reading(self) -> bool:
        """True while an iteration is under way that no loaded state has put an end to."""
        return self.status in (Status.BEGUN, Status.READING, Status.OVERRULED)

    @property
    def pending(self) -> Position[Left] | None:
        """Position that is read next, if it is not simply the start of the epoch after `now`."""
        if self.status is Status.BEGUN:
            return self.now  # rule 2
        return self.waiting if self.status in (Status.READY, Status.OVERRULED) else None

    def upcoming(self, is_over: Callable[[Position[Left]], bool] | None = None) -> Position[Left]:
        """Return the position that an iteration reads which begins now.

        Args:
            is_over: Says of a loaded position whether nothing is left of it; None: something is.
        """
        position = self.pending
        if position is None:
            return Position(epoch=self.now.epoch + 1)  # rule 1
        if not position.is_loaded or position.is_asked_for or is_over is None:
            return position
        return position.after() if is_over(position) else position  # rule 3

    def begin(self, position: Position[Left], *, is_empty: bool = False) -> None:
        """Begin an iteration at a position; an empty one has yielded all that it has."""
        self._on(Event.BEGIN)
        self.now, self.n_yielded = position, 0
        if is_empty:
            self._on(Event.YIELD)

    def advance(self) -> None:
        """Count a batch or sample that is handed over."""
        self._on(Event.YIELD)
        self.n_yielded += 1

    def end(self) -> None:
        """End the iteration under way."""
        if self.status is Status.BEGUN:
            self.waiting = self.now  # rule 2
        self._on(Event.END)

    def prepare(self) -> None:
        """End the iteration under way and be READY with the position that comes next.

        An iterator that reads later calls it, so that a state taken before has that position.
        """
        self.waiting = self.upcoming()
        self._on(Event.PREPARE)

    def set_epoch(self, epoch: int) -> Position[Left] | None:
        """Let the next iteration read an epoch; a loaded position in this epoch is kept.

        Returns:
            The loaded position that is dropped, if there is one.
        """
        pending = self.pending
        loaded = pending if pending is not None and pending.is_loaded else None
        if loaded is not None and loaded.epoch == epoch:
            if self.status is not Status.BEGUN:  # else the iteration under way reads it
                self.waiting = replace(loaded, is_asked_for=True)
            return None
        self.waiting = Position(epoch=epoch, is_asked_for=True)
        self._on(Event.SET)
        return loaded

    def load(self, position: Position[Left]) -> None:
        """Let the next iteration go on from a loaded position."""
        self.waiting = position
        self._on(Event.LOAD)
