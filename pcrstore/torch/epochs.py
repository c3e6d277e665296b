"""The epoch that comes next, shared by a dataset and the workers of torch's DataLoader.

    set_epoch(5) ──▶ next: 5 ◀── worker 0 begins an iteration: it reads 5, next: 6
                         ◀── worker 1 begins the same iteration: it reads 5

A DataLoader with workers never calls the dataset in the process that made it. So the workers look
here, and those that a DataLoader begins to iterate with together read one epoch, however early or
late each of them starts, and whether an older iteration still has workers or not.
"""

import fcntl
import json
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import context, reduction
from typing import Any, Final

from pcrstore.core import integer
from pcrstore.sampling import MAX_EPOCH

__all__ = ["SharedEpochs", "Turn"]

_KEPT: Final = 16
"""Iterations that are waited in for workers: older ones were left before all had begun."""


@dataclass(slots=True)
class Turn:
    """An iteration that some workers have begun, and others may be about to."""

    seed: int
    """The base seed of the DataLoader's iterator, which all its workers know."""
    nth: int
    """Iterations that its workers have begun, with this one: workers that stay begin several."""
    epoch: int
    loaded: int
    """Number of the state that it goes on from; 0: it reads a whole epoch."""
    pids: dict[str, int] = field(default_factory=dict)
    """Worker -> its process."""

    def has_room_for(self, seed: int, nth: int, worker: int) -> bool:
        """Say whether a worker that begins an iteration belongs to this one.

        Programs that seed torch before each epoch give several iterators one seed. Then this is an
        older iteration if it has such a worker already, or one that is gone.
        """
        return (
            (self.seed, self.nth) == (seed, nth)
            and str(worker) not in self.pids
            and all(map(_is_alive, self.pids.values()))
        )


@dataclass(slots=True)
class _Note:
    """What is shared."""

    next: int = 0
    """The epoch that the next iteration reads."""
    is_set: bool = False
    """Whether `set_epoch` said so, and no iteration has begun since."""
    n_loaded: int = 0
    """States that were loaded in the process that made the dataset."""
    loaded: int = 0
    """Number of the one that the next iteration goes on from; 0: none."""
    turns: list[Turn] = field(default_factory=list)

    def begin(self, epoch: int) -> None:
        """Let the epoch after this one be the next."""
        self.next, self.is_set, self.loaded = min(epoch + 1, MAX_EPOCH), False, 0


class SharedEpochs:
    """The epoch that comes next: one for a dataset and its workers; a copy has its own.

    It lies in a file without a name, locked while it is changed: the lock of a worker that is
    killed goes with it. The lock is between processes; a dataset is not for several threads.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._hold(os.dup(file.fileno()))
        self._write(_Note())

    def _hold(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def __getstate__(self) -> dict[str, Any]:
        """Share the file with a process that is being started; copy it anywhere else."""
        if context.get_spawning_popen() is not None:
            return {"shared": reduction.DupFd(self._fd)}
        return {"copied": asdict(self._read()) | {"turns": []}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        if "shared" in state:
            self._hold(state["shared"].detach())
        else:
            self.__init__()  # type: ignore[misc]  # a file of its own, as a new one has
            self._write(_Note(**state["copied"]))

    def _read(self) -> _Note:
        note = json.loads(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        return _Note(**{**note, "turns": [Turn(**turn) for turn in note["turns"]]})

    def _write(self, note: _Note) -> None:
        text = json.dumps(asdict(note)).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    @contextmanager
    def _changed(self) -> Iterator[_Note]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            note = self._read()
            yield note
            self._write(note)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    @property
    def next(self) -> int:
        """The epoch that the next iteration reads."""
        with self._changed() as note:
            return note.next

    @property
    def loaded(self) -> int:
        """Number of the state that the next iteration goes on from; 0: none."""
        with self._changed() as note:
            return note.loaded

    def set(self, epoch: int, *, keeps_loaded: bool) -> None:
        """Let the next iteration read this epoch.

        Raises:
            OptionError: Not an integer, negative, or over the largest epoch.
        """
        epoch = integer(epoch, "epoch", least=0, most=MAX_EPOCH)
        with self._changed() as note:
            note.next, note.is_set = epoch, True
            note.loaded *= keeps_loaded

    def load(self) -> int:
        """Let the next iteration go on from a state; return the number of the state."""
        with self._changed() as note:
            note.n_loaded += 1
            note.loaded = note.n_loaded
            return note.loaded

    def after(self, epoch: int) -> int:
        """Return the epoch that follows one of which nothing is left."""
        with self._changed() as note:
            return note.next if note.is_set and note.next != epoch else epoch + 1

    def begin(self, epoch: int) -> None:
        """Note that an iteration reads this epoch."""
        with self._changed() as note:
            note.begin(epoch)

    def end(self, epoch: int) -> None:
        """Note that this epoch was read before; one that was set since stays the next."""
        with self._changed() as note:
            if not note.is_set:
                note.begin(epoch)

    def join(
        self, seed: int, nth: int, worker: int, n_workers: int, loaded: tuple[int, int] | None
    ) -> Turn:
        """Return the iteration that a worker begins, the same as the others' it begins with.

        Args:
            seed: As `Turn`.
            nth: As `Turn`.
            worker: From 0.
            n_workers: That begin together.
            loaded: Number and epoch of the state that the worker's copy of the dataset has from the
                process that made it.
        """
        with self._changed() as note:
            turns = (t for t in reversed(note.turns) if t.has_room_for(seed, nth, worker))
            turn = next(turns, None)
            if turn is None:
                number, epoch = loaded if loaded and loaded[0] == note.loaded else (0, note.next)
                turn = Turn(seed=seed, nth=nth, epoch=epoch, loaded=number)
                note.turns.append(turn)
                note.begin(epoch)
            turn.pids[str(worker)] = os.getpid()
            if len(turn.pids) == n_workers:
                note.turns.remove(turn)
            del note.turns[:-_KEPT]
            return turn


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and somebody else's
        return True
    return True
