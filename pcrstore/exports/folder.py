"""Write the images of a dataset to a folder, one file each.

    key ──safe_name──▶ path below the folder ──_take──▶ file; "cat~2.jpg" where "cat.jpg" is taken

Keys are names from a bucket, so they are not trusted: whatever they hold, every file lands inside
the folder, which must be new or empty.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Final, TypeVar

from pcrstore.dataset import Dataset
from pcrstore.errors import DatasetExistsError, OptionError, StoreError
from pcrstore.fidelity import Fidelity, resolve_fetch
from pcrstore.format import ENCODED

__all__ = ["ExportReport", "export", "safe_name"]

Made = TypeVar("Made")

_MAX_COMPONENT: Final = 255
"""Longest file name, in bytes, of every common file system."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|%(?=[0-9A-F]{2})")
_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_JPEG_SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """The files written."""

    n_files: int
    n_bytes: int
    directory: str


def export(
    ds: Dataset,
    directory: str,
    *,
    fidelity: Fidelity = "full",
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write every image of a dataset as a file named by its key.

    Args:
        ds: The dataset.
        directory: A folder that is empty or does not exist.
        fidelity: As for `Dataset.fetch`; `"original"` gives the source files byte for byte. At any
            other, an image that was encoded from another format gets `.jpg` after its name.
        progress: Called with the number of files written since the last call.

    Raises:
        DatasetExistsError: The folder holds something.
        StoreError: A file cannot be written, or the store failed.
    """
    _, source = resolve_fetch(fidelity, ds.manifest)
    root = Path(directory)
    try:
        root.mkdir(parents=True, exist_ok=True)
        is_empty = not any(root.iterdir())
    except OSError as e:
        raise StoreError(f"{root}: cannot be written to: {e.strerror}") from e
    if not is_empty:
        raise DatasetExistsError(f"{root}: expected an empty folder, got one with files in it")
    n_bytes = 0
    for batch in ds.batches():
        keys = ds.column("key", batch)
        formats = ds.column("format", batch)
        for key, form, data in zip(keys, formats, ds.fetch(batch, fidelity), strict=True):
            name = str(key)
            if int(form) == ENCODED and not source and not _JPEG_SUFFIX.search(name):
                name += ".jpg"
            _write(root, safe_name(name), data)
            n_bytes += len(data)
        if progress is not None:
            progress(len(batch))
    return ExportReport(n_files=len(ds), n_bytes=n_bytes, directory=str(root))


def safe_name(key: str) -> str:
    r"""Return a relative path for a key that stays below any folder on any system.

    Characters that a path must not have are percent-encoded; a part that is too long is cut and
    gets a hash.

    >>> safe_name("cat/a.jpg"), safe_name("../../etc/passwd"), safe_name("/a\x00b")
    ('cat/a.jpg', '%2E%2E/%2E%2E/etc/passwd', '%2F/a%00b')
    """
    parts = [_safe_part(p) for p in key.split("/")]
    return "/".join(parts)


def _safe_part(part: str) -> str:
    if part in ("", ".", ".."):
        return {"": "%2F", ".": "%2E", "..": "%2E%2E"}[part]
    out = _UNSAFE.sub(lambda m: f"%{ord(m[0]):02X}", part)
    out = _DRIVE.sub(lambda m: f"{m[0][0]}%3A", out)
    if _RESERVED.match(out):
        out = f"%{ord(out[0]):02X}{out[1:]}"
    raw = out.encode("utf-8", "surrogateescape")
    if len(raw) <= _MAX_COMPONENT:
        return out
    stem, dot, suffix = out.rpartition(".")
    tail = f"~{blake2b(raw, digest_size=8).hexdigest()}" + (
        dot + suffix if len(suffix) < 16 else ""
    )
    room = _MAX_COMPONENT - len(tail.encode("utf-8", "surrogateescape"))
    return (stem or out).encode("utf-8", "surrogateescape")[:room].decode("utf-8", "ignore") + tail


def _write(root: Path, name: str, data: bytes) -> None:
    """Write a new file, numbered if another file or a folder has its name."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise OptionError(f"{name!r} would leave {root}")
    *folders, last = name.split("/")
    try:
        folder = root
        for part in folders:
            folder = _take(folder, part, _make_folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(_take(folder, last, lambda p: os.open(p, flags, 0o666)), "wb") as f:
            f.write(data)
    except OSError as e:
        raise StoreError(f"{root / name}: cannot be written: {e.strerror}") from e


def _make_folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)  # fails where a file has the name
    return path


def _take(folder: Path, name: str, make: Callable[[Path], Made]) -> Made:
    """Make a file or folder of this name, or of this name and a number where it is taken."""
    for attempt in range(1, 1000):
        with contextlib.suppress(FileExistsError):
            return make(folder / (name if attempt == 1 else _numbered(name, attempt)))
    raise FileExistsError(errno.EEXIST, "no name is free")


def _numbered(name: str, n: int) -> str:
    """Return a name with a number before its suffix, no longer than a file name may be."""
    path = PurePath(name)
    tail = f"~{n}{path.suffix}".encode("utf-8", "surrogateescape")
    stem = path.stem.encode("utf-8", "surrogateescape")[: max(1, _MAX_COMPONENT - len(tail))]
    return (stem + tail).decode("utf-8", "surrogateescape")
