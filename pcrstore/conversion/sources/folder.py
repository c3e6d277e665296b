"""The files of a class-per-folder tree, at any fsspec URL.

    SRC/<class>/<any path>            label = class, key = path below SRC
    SRC/<split>/<class>/<any path>    with `split_dirs`; the split becomes a column

A file straight below SRC (or below a split) has no class and gets label -1. Hidden files (a path
component that starts with a dot) are left out and counted. Keys that a bucket may have and a
dataset may not (`cat//1.jpg`) are listed as problems, which fall under the error policy. On a local
disk nothing is opened that is not a regular file inside SRC: a FIFO would block for ever, and a
link out of the tree would copy what nobody meant to publish; both are problems too.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pcrstore.errors import AccessDeniedError, NotFoundError, OptionError, StoreError
from pcrstore.storage import Entry, ReadableStore, check_name, store_of

__all__ = ["Listing", "SourceFile", "list_folder"]

_SPLITS: Final = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
)
"""What folders of splits are called, in lower case."""
_NO_NAMES: Final = frozenset({"", ".", ".."})
"""Path parts that name neither a class nor a hidden file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of the source, before anybody read it."""

    key: str
    """Path relative to the source."""
    label: str | None
    """Class name."""
    split: str | None
    n_bytes: int
    stamp: str
    """ETag, or modification time in nanoseconds: changes when the content does."""
    problem: str | None = None
    """Why the file cannot be read at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All files of a source, ordered by key."""

    files: tuple[SourceFile, ...]
    n_hidden: int
    """Hidden files left out."""

    @property
    def fingerprint(self) -> str:
        """A hash of every key, size and stamp: equal listings have equal content."""
        h = hashlib.sha256()
        for f in self.files:
            line = f"{f.key}\0{f.n_bytes}\0{f.stamp}\0{f.problem or ''}\n"
            h.update(line.encode("utf-8", "surrogateescape"))
        return h.hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """Split names, sorted."""
        return tuple(sorted({f.split for f in self.files if f.split is not None}))

    @property
    def likely_splits(self) -> tuple[str, ...]:
        """Classes that are called like splits, sorted; a train among dogs and cats is none."""
        classes = {f.label for f in self.files if f.label is not None}
        found = {name for name in classes if name.lower() in _SPLITS}
        return tuple(sorted(found)) if len(found) > 1 or found == classes else ()


def list_folder(
    url: str | os.PathLike[str] | ReadableStore,
    storage_options: Mapping[str, object] | None,
    *,
    split_dirs: bool,
) -> tuple[ReadableStore, Listing]:
    """Open a source and list its files.

    Raises:
        NotFoundError: Nothing is there.
        OptionError: There is no file in it.
        StoreError: A folder in it cannot be listed.
    """
    store = store_of(url, storage_options)
    found = list(_walk(Path(store.url.removeprefix("file://"))) if store.is_local else _list(store))
    files: list[SourceFile] = []
    n_hidden = 0
    for key, n_bytes, stamp, problem in found:
        parts = [p for p in key.split("/") if p not in _NO_NAMES]
        if any(p.startswith(".") for p in parts):
            n_hidden += 1
            continue
        split = parts.pop(0) if split_dirs and len(parts) > 1 else None
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
    if not files:
        hidden = f" but {n_hidden} hidden ones" if n_hidden else ""
        raise OptionError(f"{store.url}: expected a folder of images, found no file{hidden}")
    files.sort(key=lambda f: f.key)
    return store, Listing(files=tuple(files), n_hidden=n_hidden)


def _list(store: ReadableStore) -> Iterator[tuple[str, int, str, str | None]]:
    for e in store.list(""):
        if not e.name.endswith("/"):  # "folders" that consoles create are empty objects
            yield e.name, e.n_bytes, _stamp(e), None


def _problem_of(key: str) -> str | None:
    try:
        check_name(key)
    except OptionError as e:
        return f"cannot be read: {e}"
    return None


def _stamp(e: Entry) -> str:
    return e.etag or ""


def _walk(root: Path) -> Iterator[tuple[str, int, str, str | None]]:
    if not root.exists():
        raise NotFoundError(f"{root}: no such folder")
    if not root.is_dir():
        raise OptionError(f"{root}: expected a folder, got a file")
    inside = os.path.realpath(root)
    stack = [str(root)]
    while stack:
        folder = stack.pop()
        for e in _entries(folder):
            key = os.path.relpath(e.path, root).replace(os.sep, "/")
            if e.is_dir(follow_symlinks=False):
                stack.append(e.path)
                continue
            yield key, *_look(e.path, inside)


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """Return what a folder holds; what it hides is not ours to leave out."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError as e:
        raise AccessDeniedError(f"{folder}: cannot be listed: {e.strerror}") from e
    except OSError as e:
        raise StoreError(f"{folder}: cannot be listed: {e.strerror}") from e


def _look(path: str, inside: str) -> tuple[int, str, str | None]:
    """Return size, stamp and problem of a local file."""
    try:
        real = os.path.realpath(path, strict=True)
        s = os.stat(real)  # noqa: PTH116 - names need not be valid UTF-8 text
    except OSError as e:
        return 0, "", f"cannot be looked at: {e.strerror}"
    if os.path.commonpath((inside, real)) != inside:
        return s.st_size, str(s.st_mtime_ns), "is a link that leaves the source folder"
    if stat.S_ISDIR(s.st_mode):
        return 0, "", "is a link to a folder"
    if not stat.S_ISREG(s.st_mode):
        return 0, "", "is not a regular file"
    return s.st_size, str(s.st_mtime_ns), None
