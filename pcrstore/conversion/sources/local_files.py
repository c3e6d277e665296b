"""Local files that are safe to read: what any source on a local disk asks of each of its files.

Only regular files inside the source's folder are opened: a FIFO would block for ever, a device is
no image, and a link that leaves the folder would copy what nobody meant to publish.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pcrstore.errors import AccessDeniedError, NotFoundError, OptionError, StoreError

__all__ = ["look", "walk"]


def walk(root: Path) -> Iterator[tuple[str, int, str, str | None]]:
    """Yield key, size, stamp and problem of every file of a local tree; see `look`.

    Raises:
        NotFoundError: There is no such folder.
        OptionError: It is a file.
        AccessDeniedError: A folder of the tree cannot be listed.
        StoreError: Likewise, for another reason.
    """
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
            yield key, *look(e.path, inside)


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """Return the entries of a folder.

    A folder that cannot be listed is an error: its files would be missing from the dataset without
    a word.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError as e:
        raise AccessDeniedError(f"{folder}: cannot be listed: {e.strerror}") from e
    except OSError as e:
        raise StoreError(f"{folder}: cannot be listed: {e.strerror}") from e


def look(path: str, inside: str) -> tuple[int, str, str | None]:
    """Return size, stamp and problem of a local file.

    Args:
        path: Path of the file, which need not exist.
        inside: Real path of the source's folder, which the file must not leave by a link.

    Returns:
        Size in bytes; modification time in nanoseconds, as text; the reason why the file is not to
        be read, or None.
    """
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
