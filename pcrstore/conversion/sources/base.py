"""The interface of a source: a list of files, each of which can be read.

    list()       every file with its class, split, size and stamp       once, in the calling process
    read(file)   the bytes of one file                                  in each worker process

A new kind of source (a list file, the shards of another format) is one class with these members;
it needs no base class. Nothing is read here: the bytes come from the implementations.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Protocol, runtime_checkable

from pcrstore.errors import OptionError

__all__ = ["Listing", "Source", "SourceFile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source, as listed: nothing of its content has been read."""

    key: str
    """Name of the file within its source, and of its image in the dataset."""
    label: str | None
    """Class name; None for an image without a class."""
    split: str | None
    """Split name, such as `"train"`; None for an image of no split."""
    n_bytes: int
    """Exact size: a file that reads longer or shorter is one that changed."""
    stamp: str
    """ETag, or modification time in nanoseconds: text that changes when the content does."""
    problem: str | None = None
    """The reason why the file cannot be read at all; it then falls under the error policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All files of a source. They are kept in order of key, whatever order they are given in.

    Raises:
        OptionError: There is no file, or two have the same key.
    """

    files: tuple[SourceFile, ...]
    n_hidden: int = 0
    """Number of hidden files left out."""
    labels_follow_keys: bool = False
    """True if label and split are functions of the key. The fingerprint then leaves them out."""

    def __post_init__(self) -> None:
        files = sorted(self.files, key=attrgetter("key"))
        object.__setattr__(self, "files", tuple(files))
        if not files:
            hidden = f" but {self.n_hidden} hidden ones" if self.n_hidden else ""
            raise OptionError(f"expected images, found no file{hidden}")
        for before, file in pairwise(files):
            if before.key == file.key:
                raise OptionError(f"expected one file of each key, got {file.key!r} twice")

    @property
    def fingerprint(self) -> str:
        """Hash of every key, size and stamp: equal listings have equal content."""
        h = hashlib.sha256()
        for f in self.files:
            line = f"{f.key}\0{f.n_bytes}\0{f.stamp}\0{f.problem or ''}\n"
            if not self.labels_follow_keys:
                line = f"{f.label!r}\0{f.split!r}\0{line}"
            h.update(line.encode("utf-8", "surrogatepass"))
        return h.hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        return tuple(sorted({f.split for f in self.files if f.split is not None}))


@runtime_checkable
class Source(Protocol):
    """The images that `convert` makes a dataset of. Picklable: worker processes read them."""

    @property
    def url(self) -> str:
        """Name of the source, without credentials; tells unfinished conversions apart."""

    @property
    def max_readers(self) -> int:
        """Number of files that are worth reading at once: 1 for a local disk."""

    @property
    def shared_by_processes(self) -> bool:
        """False if this process alone can read the files; threads then take the workers' place."""

    def list(self) -> Listing:
        """Return every file. Called once.

        Raises:
            NotFoundError: There is no such source.
            OptionError: There is no file in it.
            StoreError: A part of it cannot be listed.
        """

    def read(self, file: SourceFile) -> bytes:
        """Return the bytes of a listed file. Called from several threads and processes.

        Raises:
            NotFoundError: The file is gone; the conversion ends, for its source changed.
            JpegError: This file cannot be read, others can; it falls under the error policy.
            StoreError: The source failed; the conversion ends, and can be resumed.
        """
