"""One iteration of a loader: its batches in order, to their end or until it is cut off.

    under way ──last batch, error, close(), dropped──▶ over: `next` is a StopIteration
        └──another begins, or the loader is closed───▶ cut off: `next` is a UsageError

A loop that is left by `break` drops its iteration, which ends it; only an iteration that is kept
can be cut off.
"""

from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

from pcrstore.errors import UsageError

__all__ = ["BatchIterator"]

Item = TypeVar("Item")


class BatchIterator(Generic[Item]):
    """The batches of one iteration.

    Args:
        batches: Batches in order.
        n_batches: Number of batches. Where somebody stops the threads of a loader, `batches` ends
            too early, which must not look like the end of an epoch.
        on_given: Called before each batch is handed over.
        on_ended: Called once if the iteration ends by itself and is not cut off.
    """

    def __init__(
        self,
        batches: Iterator[Item],
        n_batches: int,
        *,
        on_given: Callable[[], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._batches: Iterator[Item] | None = batches
        self._n_left = n_batches
        self._on_given = on_given
        self._on_ended = on_ended
        self._reason = ""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        """Return the next batch.

        Raises:
            UsageError: Batches are left, and the iteration was cut off.
        """
        if self._batches is None:
            raise self._end()
        try:
            batch = next(self._batches)
        except StopIteration:
            self._reason = self._reason or "the threads of this loader were stopped"
            self.close()
            raise self._end() from None
        except BaseException:
            self.close()
            raise
        if self._reason:  # by another thread, while this one waited
            raise self._end()
        self._n_left -= 1
        self._on_given()
        return batch

    def _end(self) -> Exception:
        if self._reason and self._n_left:
            return UsageError(f"{self._reason}: {self._n_left} batches of this iteration are left")
        return StopIteration()

    def cut_off(self, reason: str) -> None:
        """Let the next `next` be a `UsageError`, unless the iteration is over."""
        if self._batches is not None:
            self._batches, self._reason = None, reason

    def close(self) -> None:
        """End the iteration here."""
        if self._batches is not None:
            self._batches = None
            self._on_ended()

    def __del__(self) -> None:
        self.close()
