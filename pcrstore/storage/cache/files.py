"""Names of the files that a cache makes, and a walk over them.

    <hash of a URL>/
        url                    the URL, for people
        3f/<hash>              a body; the hash is of URL, object and range
        3f/tmp-<pid>-<uuid>    a body that is being written, and locked by its writer

Any other file is neither counted nor removed, and links are not followed. The two first digits of
a body's hash are a folder of their own (a fan of 256), so that no folder gets very large.
"""

import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from pcrstore.core import ByteRange

__all__ = [
    "SAFELY",
    "CachedFile",
    "body_name",
    "datasets",
    "fans",
    "files",
    "folder_name",
    "is_left_behind",
    "temporary_beside",
]

SAFELY: Final = os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags with which every file is opened: no link is followed, and no child process inherits it."""

_DATASET: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FAN: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_BODY: Final = re.compile(r"[0-9a-f]{38}", re.ASCII)
_TEMPORARY: Final = re.compile(r"tmp-[0-9]+-[0-9a-f]{32}", re.ASCII)
_OLD_SECONDS: Final = 3600.0
"""Age from which a temporary counts as left behind, even if a process has it locked: a child that
was forked during a write keeps the lock for as long as it lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """One file of the cache, as a walk found it."""

    dataset: str
    """Name of the folder that it is in."""
    path: str
    n_bytes: int
    mtime: float
    """Last use, to a minute. Seconds since 1970."""
    is_body: bool
    """False for a temporary."""


def folder_name(url: str) -> str:
    """Return the name of a dataset's folder."""
    return blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def body_name(dataset: str, wanted: ByteRange) -> str:
    """Return the name of a body below the cache's folder; other ranges have other names."""
    # The object's name may hold anything, also spaces and digits. It comes last, so that no other
    # triple makes the same text: of "2" at 1..9 and "9 2" at 0..1 come "1 9 2" and "0 1 9 2".
    text = f"{dataset} {wanted.start} {wanted.stop} {wanted.name}"
    key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    return f"{dataset}/{key[:2]}/{key[2:]}"


def temporary_beside(path: Path) -> Path:
    """Return a path in the same folder that no other writer has."""
    return path.with_name(f"tmp-{os.getpid()}-{uuid.uuid4().hex}")


def datasets(folder: Path) -> list[Path]:
    """Return the folders of the datasets."""
    return _matching(folder, _DATASET)


def fans(dataset: Path) -> list[Path]:
    """Return the folders in a dataset's folder."""
    return _matching(dataset, _FAN)


def files(folder: Path) -> Iterator[CachedFile]:
    """Yield every body and temporary; those that come or go during the walk may be missed."""
    for dataset in datasets(folder):
        for fan in fans(dataset):
            for entry in _entries(fan):
                is_body = bool(_BODY.fullmatch(entry.name))
                if not is_body and not _TEMPORARY.fullmatch(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield CachedFile(
                        dataset=dataset.name,
                        path=entry.path,
                        n_bytes=status.st_size,
                        mtime=status.st_mtime,
                        is_body=is_body,
                    )


def is_left_behind(file: CachedFile) -> bool:
    """Say whether a temporary's writer is dead: no process has it locked, or it is old."""
    if time.time() - file.mtime > _OLD_SECONDS:
        return True
    try:
        temporary = os.open(file.path, os.O_RDWR | SAFELY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(temporary, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(temporary)
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _matching(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """Return the folders in a folder whose names match."""
    found = [e for e in _entries(folder) if name.fullmatch(e.name)]
    return [Path(e.path) for e in found if e.is_dir(follow_symlinks=False)]
