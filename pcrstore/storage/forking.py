"""A store that is read in a process and in the workers that the process forks.

obstore hangs in a child of a process that has used it, also on a new store: its threads are gone.

    this process                       reads through
    ---------------------------------  -------------------------------------------------------------
    will fork workers                  fsspec: metadata alone, so that obstore stays for the workers
    turned out to fork none            obstore, from `use_engine` on
    any other: a worker, an unpickler  obstore
    was forked from a user of obstore  fsspec, and says so once (`pcrstore.storage.obstore_store`)

Where obstore is not installed, or does not understand an option, fsspec reads in all of them.
"""

import os
from collections.abc import Mapping, Sequence

from pcrstore.concurrency import PerProcess
from pcrstore.core import ByteRange
from pcrstore.storage.open import Engine, check_engine, check_storage_options, open_store
from pcrstore.storage.protocol import Bodies, Entries, ReadableStore, Sizes

__all__ = ["ForkingStore"]


class ForkingStore(ReadableStore):
    """A store whose maker reads through fsspec, so that its forked children can use obstore.

    Args:
        url: As `open_store`.
        storage_options: As `open_store`.
        engine: For the children.

    Raises:
        OptionError: As `open_store`.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, object] | None = None,
        *,
        engine: Engine = "auto",
    ) -> None:
        check_engine(engine)  # here, and not in every child
        check_storage_options(storage_options)
        self._maker = os.getpid()
        self._arguments = url, dict(storage_options or {}), engine
        self._opened = PerProcess(self._open)
        """The stores that this process has read through; the last one is in use."""
        self._opened.get()

    def _open(self) -> list[ReadableStore]:
        url, options, engine = self._arguments
        is_maker = os.getpid() == self._maker
        return [open_store(url, options, engine="fsspec" if is_maker else engine)]

    def _here(self) -> ReadableStore:
        return self._opened.get()[-1]

    def use_engine(self) -> None:
        """Read by the chosen engine in this process too, from now on: it forks no workers."""
        stores = self._opened.get()
        if os.getpid() == self._maker and len(stores) == 1:
            url, options, engine = self._arguments
            stores.append(open_store(url, options, engine=engine))

    def __repr__(self) -> str:
        return f"ForkingStore({self.url!r})"

    @property
    def url(self) -> str:
        """Root of the store, without credentials."""
        return self._here().url

    @property
    def can_list(self) -> bool:
        """False for a plain web server."""
        return self._here().can_list

    @property
    def is_local(self) -> bool:
        """As the store beneath."""
        return self._here().is_local

    @property
    def shared_by_processes(self) -> bool:
        """As the store beneath."""
        return self._here().shared_by_processes

    @property
    def n_retries(self) -> int:
        """Requests of this process that failed in a way worth another try."""
        return sum(store.n_retries for store in self._opened.get())

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object, in one request."""
        return self._here().get(name, max_bytes=max_bytes)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order; one request each."""
        return self._here().get_ranges(ranges)

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name."""
        return self._here().list(prefix)

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each object, in order."""
        return self._here().sizes(names)
