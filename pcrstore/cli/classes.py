"""Class names in the order of their ids, read from a file or from another dataset."""

import json
from collections.abc import Mapping
from typing import Final

from pcrstore.dataset import open_dataset
from pcrstore.errors import FormatError, NotFoundError, OptionError, StoreError
from pcrstore.storage import open_store

__all__ = ["read_classes"]

_MAX_FILE: Final = 2**28
"""Largest file that is read: a list of ten million class names has 256 MiB at the most."""


def read_classes(
    where: str, options_of: Mapping[str, Mapping[str, object] | None]
) -> tuple[str, ...]:
    """Return class names in the order of their ids.

    Args:
        where: A file or URL that holds a JSON list, a JSON object of ids by name or a name per
            line; or the URL of a dataset.
        options_of: Storage options by URL. Those of the first URL with the scheme of `where`
            are used.

    Raises:
        OptionError: It is none of these.
    """
    scheme = where.partition("://")[0] if "://" in where else "file"
    given = next((o for url, o in options_of.items() if url.startswith(f"{scheme}://")), None)
    folder, slash, name = where.rstrip("/").rpartition("/")
    # A folder or a bucket cannot be read as a file; as a dataset it may.
    try:
        data = open_store(folder + slash or ".", given).get(name, max_bytes=_MAX_FILE)
    except StoreError:
        data = None
    except FormatError as e:
        raise OptionError(f"classes: {e}") from e
    if data is None:
        try:
            return open_dataset(where, given).classes
        except NotFoundError as e:
            raise OptionError(f"classes: {where} is neither a file nor a dataset") from e
    try:
        return _parse_classes(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise OptionError(f"classes: {where}: {e}") from e


def _parse_classes(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith(("[", "{")):
        found = json.loads(text)
        if isinstance(found, dict):
            if sorted(map(repr, found.values())) != sorted(map(repr, range(len(found)))):
                raise FormatError(f"expected the ids 0..{len(found) - 1}, each once")
            found = sorted(found, key=lambda name: int(found[name]))
        names = tuple(found)
    else:
        names = tuple(line for line in text.splitlines() if line.strip())
    if not all(isinstance(n, str) and n for n in names):
        raise FormatError("expected names")
    if len(set(names)) != len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise FormatError(f"expected each name once, got {twice!r} again")
    if not names:
        raise FormatError("expected at least one name")
    return names
