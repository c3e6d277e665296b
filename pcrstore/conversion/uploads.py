"""Store units in the background, two at a time, and note each in the journal once it is stored."""

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

from pcrstore.conversion.journal import FinishedUnit, Journal
from pcrstore.storage import Store

__all__ = ["Uploads"]

_IN_FLIGHT: Final = 2
"""Number of units under way. Each may hold a whole object in memory; while one is uploaded, the
next is built."""


class Uploads:
    """The background puts of one conversion."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="pcrstore-put")
        self._pending: set[Future[None]] = set()

    def put(self, objects: tuple[tuple[str, bytes], ...], unit: FinishedUnit, variant: str) -> None:
        """Begin to store a unit's objects and then its note; wait first while two are under way.

        Raises:
            StoreError: An earlier one failed.
        """

        def run() -> None:
            for name, data in objects:
                self._store.put(name, data)
            self._journal.write(unit, variant)

        while len(self._pending) >= _IN_FLIGHT:
            self._collect(wait(self._pending, return_when=FIRST_COMPLETED).done)
        self._pending.add(self._pool.submit(run))

    def _collect(self, finished: set[Future[None]]) -> None:
        self._pending -= finished
        for future in finished:
            future.result()

    def wait(self) -> None:
        """Wait until everything is stored.

        Raises:
            StoreError: One failed.
        """
        self._collect(wait(self._pending).done)

    def close(self) -> None:
        """Drop units that have not begun and wait for the others: no write comes afterwards."""
        self._pool.shutdown(cancel_futures=True)
