"""The epoch cursor of a dataset, shared with the workers of torch's DataLoader.

    set_epoch(5) ──▶ READY, epoch 5 ◀── worker 0 begins an iteration: it reads epoch 5
                   READING, epoch 5 ◀── worker 1 begins the same iteration: it reads epoch 5
                                    ◀── worker 0 begins another iteration: it reads epoch 6

A DataLoader with workers never calls the dataset in the process that made it, so workers look up
their epoch here. Workers that a DataLoader begins to iterate with together read one epoch, however
early or late each of them starts, and whether an older iteration still has workers or not.

The iteration that a worker belongs to is told by the base seed of the DataLoader's iterator, which
all its workers know, and by how often the worker has begun to iterate.
"""

import fcntl
import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import context, current_process, reduction
from typing import Any, Final

from pcrstore.loader import EpochCursor, Position, Status

__all__ = ["SharedCursor", "SharedState"]

_KEPT: Final = 16
"""Most iterations that workers may join: older ones were left before all workers had begun."""


@dataclass(slots=True, kw_only=True)
class _WorkerIteration:
    """An iteration that some workers of a DataLoader have begun, and others may be about to."""

    seed: int
    """Base seed of the DataLoader's iterator."""
    nth: int
    """Iterations that each of its workers has begun, with this one: workers that stay begin
    several with one seed."""
    position: Position[int]
    first: int | None = None
    """Number of worker 0's process, in the order in which its parent has started processes; None if
    it cannot be told."""
    pids: dict[str, int] = field(default_factory=dict)
    """Process of each worker that has begun."""

    def has_room_for(self, seed: int, nth: int, worker: int) -> bool:
        """Say whether a worker that begins an iteration belongs to this one.

        Programs that seed torch before each epoch give several iterators one seed. Then this is an
        older iteration if it has such a worker already, or one that is gone. But a worker may be
        late: others have begun, the loop was left, and they have ended before this one begins. A
        DataLoader starts its workers one after the other, so their processes' numbers tell that
        they belong together: workers 0, 1 and 2 are processes 7, 8 and 9.
        """
        return (
            (self.seed, self.nth) == (seed, nth)
            and str(worker) not in self.pids
            and (
                self.first == _first_process(worker) is not None
                or all(map(_is_alive, self.pids.values()))
            )
        )


@dataclass(slots=True, kw_only=True)
class SharedState:
    """The content of the shared file: the cursor, and iterations that workers may still join.

    `left` of a loaded position is the number of the `load_state_dict` call that loaded it, from 1;
    the slices themselves stay in each process, which keeps the state of that call.
    """

    cursor: EpochCursor[int] = field(default_factory=EpochCursor)
    has_workers: bool = False
    """True: the newest iteration is one of worker processes."""
    n_loaded: int = 0
    """States that were loaded in the process that made the dataset."""
    joinable: list[_WorkerIteration] = field(default_factory=list)
    """Iterations that some workers have begun and others have not, oldest first."""

    def load(self, epoch: int) -> int:
        """Let the next iteration go on from a state of an epoch; return the number of the state."""
        before, following = self.cursor.waiting, None
        if self.cursor.status is Status.READY:
            # torchdata loads the state of an epoch that is over after `set_epoch` chose the next.
            following = before.epoch if before.is_asked_for else before.following
        self.n_loaded += 1
        self.cursor.load(
            Position(
                epoch=epoch,
                left=self.n_loaded,
                is_loaded=True,
                following=None if following == epoch else following,
            )
        )
        self.has_workers = False
        return self.n_loaded

    def begin(self, position: Position[int]) -> None:
        """Note that an iteration reads a position; it counts from its first sample on."""
        self.cursor.begin(position)
        self.cursor.advance()

    def resume(self, epoch: int, *, is_over: bool) -> None:
        """Note that a worker goes on from a state of its own, of an epoch that may be over for it.

        An epoch that was set since stays the next one if the epoch is over for all workers.
        """
        is_set = self.cursor.status is Status.READY and self.cursor.waiting.is_asked_for
        if not (is_over and is_set):
            self.begin(Position(epoch=epoch))
        self.has_workers = True

    def join(
        self,
        seed: int,
        nth: int,
        worker: int,
        n_workers: int,
        is_over: Callable[[Position[int]], bool],
    ) -> Position[int]:
        """Return the position that a worker begins, the same as the others' it begins with.

        Args:
            seed: Base seed of the DataLoader's iterator.
            nth: Iterations that the worker has begun, with this one.
            worker: Number of the worker, from 0.
            n_workers: Workers that begin together.
            is_over: Says of a loaded position whether nothing is left of it.
        """
        iterations = (i for i in reversed(self.joinable) if i.has_room_for(seed, nth, worker))
        iteration = next(iterations, None)
        if iteration is None:
            position = self.cursor.upcoming(is_over)
            iteration = _WorkerIteration(
                seed=seed, nth=nth, position=position, first=_first_process(worker)
            )
            self.joinable.append(iteration)
            self.begin(position)
        iteration.pids[str(worker)] = os.getpid()
        if len(iteration.pids) == n_workers:
            self.joinable.remove(iteration)
        del self.joinable[:-_KEPT]
        self.has_workers = True
        return iteration.position

    def to_json(self) -> dict[str, Any]:
        """Return the state in JSON types."""
        cursor = self.cursor
        return {
            "status": cursor.status.value,
            "positions": [asdict(cursor.waiting), asdict(cursor.now)],
            "has_workers": self.has_workers,
            "n_loaded": self.n_loaded,
            "joinable": [asdict(iteration) for iteration in self.joinable],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "SharedState":
        """Return what `to_json` was called on."""
        positions: list[Position[int]] = [Position(**fields) for fields in state["positions"]]
        waiting, now = positions
        return cls(
            cursor=EpochCursor(Status(state["status"]), waiting=waiting, now=now),
            has_workers=state["has_workers"],
            n_loaded=state["n_loaded"],
            joinable=[
                _WorkerIteration(**{**i, "position": Position(**i["position"])})
                for i in state["joinable"]
            ],
        )


class SharedCursor:
    """An epoch cursor that a dataset shares with its workers; a copy has its own.

    The state lies in a file without a name, which is locked while it is changed: the system frees
    the lock of a worker that is killed, and would not free a lock of `multiprocessing`. The lock is
    between processes; a dataset is not for several threads.
    """

    def __init__(self, state: SharedState | None = None) -> None:
        with tempfile.TemporaryFile() as file:
            self._hold(os.dup(file.fileno()))
        self._write(state or SharedState())

    def _hold(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def __reduce__(self) -> tuple[object, ...]:
        """Share the file with a process that is being started; copy it anywhere else."""
        if context.get_spawning_popen() is not None:
            return _shared, (reduction.DupFd(self._fd),)
        state = self._read()
        state.joinable = []
        return SharedCursor, (state,)

    def _read(self) -> SharedState:
        return SharedState.from_json(json.loads(os.pread(self._fd, os.fstat(self._fd).st_size, 0)))

    def _write(self, state: SharedState) -> None:
        # One write, and blanks to the end of a longer text before: a process that is killed between
        # two calls would leave the end of the old text behind the new one.
        text = json.dumps(state.to_json()).encode()
        os.pwrite(self._fd, text.ljust(os.fstat(self._fd).st_size), 0)

    @contextmanager
    def locked(self) -> Iterator[SharedState]:
        """Give the state, which no other process sees or changes until the block ends."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            state = self._read()
            yield state
            self._write(state)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _shared(duplicate: Any) -> SharedCursor:  # noqa: ANN401 - DupFd makes one of two classes
    cursor = SharedCursor.__new__(SharedCursor)
    cursor._hold(duplicate.detach())  # noqa: SLF001 - of this module
    return cursor


def _first_process(worker: int) -> int | None:
    """Return the number of worker 0's process, as this process, a worker of it, can tell.

    `multiprocessing` puts it into names: worker 2 in "ForkProcess-9" says 7.
    """
    number = current_process().name.rpartition("-")[2].rpartition(":")[2]
    return int(number) - worker if number.isdecimal() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and of another user
        return True
    return True
