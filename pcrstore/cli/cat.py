"""`pcrstore cat`: one image, at any fidelity."""

import base64
import hashlib
import re
import sys
from collections.abc import Mapping
from typing import Final

import click

from pcrstore.cli.params import (
    fidelity_option,
    json_option,
    store_option,
    version_option,
    visit,
    windows,
)
from pcrstore.cli.text import emit
from pcrstore.dataset import Dataset
from pcrstore.errors import OptionError, UsageError

__all__ = ["cat"]

_INDEX: Final = re.compile(r"[0-9]{1,18}")


@click.command(short_help="Write one image to stdout.")
@click.argument("url")
@click.argument("image", metavar="KEY_OR_INDEX")
@fidelity_option
@click.option("--key", "is_key", is_flag=True, help="IMAGE is a key even if it is a number.")
@store_option
@version_option
@json_option
def cat(
    *,
    url: str,
    image: str,
    fidelity: str,
    is_key: bool,
    storage_options: Mapping[str, object] | None,
    version: int | None,
    as_json: bool,
) -> None:
    """Write one image as a file to stdout, at any fidelity; --json tells of it, in base64.

    A number is an index, anything else a key.

    Example:
        pcrstore cat s3://bucket/photos cat/7.jpg --fidelity 2 > preview.jpg
        pcrstore cat s3://bucket/photos 0 --fidelity original | sha256sum
    """
    out = sys.stdout.buffer
    if not as_json and sys.stdout.isatty():
        raise UsageError(
            "an image would garble the terminal: send it to a file or a pipe (> a.jpg)"
        )
    ds, _ = visit(url, storage_options, version)
    index = _find(ds, image) if is_key or not _INDEX.fullmatch(image) else int(image)
    if not 0 <= index < len(ds):
        raise OptionError(f"index must be in 0..{len(ds) - 1}, got {index}")
    data = ds.fetch([index], fidelity)[0]
    if not as_json:
        out.write(data)
        out.flush()
        return
    key, label = ds.column("key", [index])[0], int(ds.column("label", [index])[0])
    emit(
        {
            "index": index,
            "key": str(key),
            "label": label,
            "class": ds.classes[label] if label >= 0 else None,
            "fidelity": fidelity,
            "n_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "base64": base64.b64encode(data).decode("ascii"),
        }
    )


def _find(ds: Dataset, key: str) -> int:
    for window in windows(len(ds)):
        for index, found in zip(window, ds.column("key", window), strict=True):
            if str(found) == key:
                return index
    raise OptionError(f"{ds.url}: no image has the key {key!r}; `pcrstore ls` lists them")
