"""Arguments and options that several commands share, and the values they stand for."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self, TypeVar

import click
from tqdm import tqdm

from pcrstore.core import parse_size
from pcrstore.cost import DEFAULT_COST
from pcrstore.dataset import Dataset, list_versions, open_dataset, read_manifest
from pcrstore.errors import NotFoundError, OptionError
from pcrstore.jpeg import BUILTIN
from pcrstore.storage import open_store

__all__ = [
    "SIZE",
    "STORAGE_OPTIONS",
    "Bar",
    "fidelity_option",
    "json_option",
    "read_script",
    "store_option",
    "version_option",
    "visit",
    "windows",
]

Command = TypeVar("Command", bound=Callable[..., object])

_WINDOW: Final = 65_536
"""Number of images whose columns are read at once."""


class _Size(click.ParamType[int]):
    """A number of bytes: `4mib`, `10gb`, `512kb`, `1000`."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except OptionError as e:
            self.fail(str(e), param, ctx)


class _StorageOptions(click.ParamType[Mapping[str, object]]):
    """fsspec storage options as JSON, or `@FILE` that holds it.

    They hold secrets, so no message shows them.
    """

    name = "json|@file"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, object]:
        if isinstance(value, Mapping):
            return value
        text = str(value)
        if text.startswith("@"):
            try:
                text = Path(text[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as e:
                self.fail(f"cannot read {text[1:]}: {_reason(e)}", param, ctx)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            self.fail('expected JSON such as {"anon": true}, or @FILE', param, ctx)
        if not isinstance(found, dict):
            self.fail("expected a JSON object", param, ctx)
        return found


def _reason(e: Exception) -> str:
    return (e.strerror if isinstance(e, OSError) else None) or str(e)


SIZE = _Size()
STORAGE_OPTIONS = _StorageOptions()


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."
    )(command)


def fidelity_option(command: Command) -> Command:
    """Add `--fidelity`."""
    return click.option(
        "--fidelity",
        metavar="K|full|original",
        default="full",
        show_default=True,
        help='A number from 1, "full", "original" (source files byte for byte), "ms-ssim>=0.98" or '
        '"bytes<=20kb".',
    )(command)


def store_option(command: Command) -> Command:
    """Add `--storage-options`."""
    return click.option(
        "--storage-options",
        type=STORAGE_OPTIONS,
        help='fsspec options of the URL as JSON, such as {"anon": true}, or @FILE.',
    )(command)


def version_option(command: Command) -> Command:
    """Add `--version`."""
    return click.option(
        "--version",
        type=click.IntRange(min=1),
        help="Read this version of the dataset; default: the newest.",
    )(command)


def visit(
    url: str, storage_options: Mapping[str, object] | None, version: int | None = None
) -> tuple[Dataset, list[int]]:
    """Open a dataset by one LIST and one GET; return it and its versions, newest first.

    Where the store cannot list, the versions are the one that was opened.

    Raises:
        NotFoundError: There is no dataset.
        OptionError: It has no such version.
    """
    store = open_store(url, storage_options)
    if not store.can_list:
        ds = open_dataset(url, storage_options, version=version)
        return ds, [ds.version]
    found = list_versions(store)
    if not found:
        raise NotFoundError(f"{store.url}: no pcrstore dataset there (it has no manifest)")
    if version is not None and version not in found:
        has = ", ".join(map(str, found))
        raise OptionError(f"{store.url}: expected one of its versions {has}, got {version}")
    return Dataset(store, read_manifest(store, version or found[0]), DEFAULT_COST), found


def windows(n: int) -> Iterator[range]:
    """Yield runs of images whose columns fit in memory, which together are the first `n`.

    >>> list(windows(100_000))
    [range(0, 65536), range(65536, 100000)]
    """
    for first in range(0, n, _WINDOW):
        yield range(first, min(n, first + _WINDOW))


class Bar:
    """A progress bar on stderr; nothing is shown where stderr is no terminal."""

    def __init__(self, total: int | None, verb: str) -> None:
        self._bar = tqdm(total=total, desc=verb, unit="image", disable=None, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, n: int, note: str = "") -> None:
        """Count some more images as done."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(n)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def read_script(name: str) -> str:
    """Return the name of a built-in script, or the text of a script file.

    Raises:
        OptionError: Neither.
    """
    if name in BUILTIN:
        return name
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise OptionError(
            f"script must be one of {', '.join(BUILTIN)} or a file, got {name!r} ({_reason(e)})"
        ) from e
    if "[" not in text:
        raise OptionError(f"{name}: expected a script, whose groups begin with a line [label]")
    return text
