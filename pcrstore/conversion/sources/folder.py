"""Source: a class-per-folder tree, at any URL that fsspec opens.

    ROOT/<class>/<any path>            label = class, key = path below ROOT
    ROOT/<split>/<class>/<any path>    with `split_dirs`; the split becomes a column

A file directly in ROOT (or directly in a split's folder) has no class. Hidden files (a path
component begins with a dot) are left out and counted. Keys that a bucket may have and a dataset may
not (`cat//1.jpg`) are listed as problems, which fall under the error policy. On a local disk only
regular files inside ROOT are opened: a FIFO would block for ever, and a link that leaves the tree
would copy what nobody meant to publish; both are problems too.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pcrstore.conversion.sources.base import Listing, SourceFile
from pcrstore.conversion.sources.local_files import walk
from pcrstore.errors import (
    AccessDeniedError,
    FormatError,
    OptionError,
    SourceChangedError,
    UnsupportedJpegError,
)
from pcrstore.jpeg import Limits
from pcrstore.storage import ReadableStore, check_name

__all__ = ["FolderSource"]

_log = logging.getLogger(__name__)

_SPLITS: Final = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
)
"""Usual names of the folders of splits, in lower case."""
_NO_NAMES: Final = frozenset({"", ".", ".."})
"""Path parts that name neither a class nor a hidden file."""
_MAX_CHANGED: Final = Limits().max_bytes
"""Size up to which a file that is larger than it was listed is read all the same: a second read
then tells a change of the file from a reply that went wrong."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A class-per-folder tree below the root of a store."""

    store: ReadableStore
    split_dirs: bool = False
    """True if the folders directly below the root are splits."""

    @property
    def url(self) -> str:
        """Root of the tree, without credentials."""
        return self.store.url

    @property
    def max_readers(self) -> int:
        """Number of files that are worth reading at once."""
        return 1 if self.store.is_local else 8

    @property
    def shared_by_processes(self) -> bool:
        """False for objects in the memory of this process."""
        return self.store.shared_by_processes

    def list(self) -> Listing:
        """Return every file; warn if the names of classes look like those of splits.

        Raises:
            NotFoundError: There is no such folder.
            OptionError: There is no file in it.
            StoreError: A folder in it cannot be listed.
        """
        path = Path(self.url.removeprefix("file://"))
        files: list[SourceFile] = []
        n_hidden = 0
        for key, n_bytes, stamp, problem in (
            walk(path) if self.store.is_local else _list(self.store)
        ):
            parts = [p for p in key.split("/") if p not in _NO_NAMES]
            if any(p.startswith(".") for p in parts):
                n_hidden += 1
                continue
            split = parts.pop(0) if self.split_dirs and len(parts) > 1 else None
            label = parts[0] if len(parts) > 1 else None
            files.append(
                SourceFile(
                    key=key,
                    label=label,
                    split=split,
                    n_bytes=n_bytes,
                    stamp=stamp,
                    problem=problem or _problem_of(key),
                )
            )
        likely = () if self.split_dirs else _likely_splits(files)
        if likely:
            _log.warning(
                "%s: %s become classes; if they are splits, convert with split_dirs=True, or "
                "--split-dirs on the command line",
                self.url,
                ", ".join(likely),
            )
        try:
            return Listing(files=tuple(files), n_hidden=n_hidden, labels_follow_keys=True)
        except OptionError as e:
            raise OptionError(f"{self.url}: {e}") from None

    def read(self, file: SourceFile) -> bytes:
        """Return the bytes of a file.

        Raises:
            NotFoundError: The file is gone.
            SourceChangedError: It has grown beyond any limit.
            UnsupportedJpegError: A local file that this user may not read.
            StoreError: The store failed.
        """
        try:
            return self.store.get(file.key, max_bytes=max(file.n_bytes, _MAX_CHANGED))
        except FormatError as e:
            raise SourceChangedError(
                f"{file.key}: was listed with {file.n_bytes} bytes, has more now"
            ) from e
        except AccessDeniedError as e:
            if not self.store.is_local:
                raise  # credentials that expired say nothing about the file
            raise UnsupportedJpegError(f"cannot be read: {e}") from e


def _likely_splits(files: Iterable[SourceFile]) -> tuple[str, ...]:
    """Return the class names that look like splits ("train", "val"), sorted.

    Only where at least two do, or all: one class "train" among "dog" and "cat" is a class.
    """
    classes = {f.label for f in files if f.label is not None}
    found = {name for name in classes if name.lower() in _SPLITS}
    return tuple(sorted(found)) if len(found) > 1 or found == classes else ()


def _list(store: ReadableStore) -> Iterator[tuple[str, int, str, str | None]]:
    """Yield key, size, stamp and problem of every object."""
    for e in store.list(""):
        if not e.name.endswith("/"):  # "folders" that consoles create are empty objects
            yield e.name, e.n_bytes, e.etag or "", None


def _problem_of(key: str) -> str | None:
    """Return the reason why no store can be asked for the key, if there is one."""
    try:
        check_name(key)
    except OptionError as e:
        return f"cannot be read: {e}"
    return None
