"""`pcrstore ls`: the images of a dataset."""

from collections.abc import Iterator, Mapping

import click

from pcrstore.cli.params import json_option, store_option, version_option, visit, windows
from pcrstore.cli.text import emit, printable
from pcrstore.dataset import Dataset
from pcrstore.format import FORMATS

__all__ = ["ls"]


@click.command(short_help="List the images.")
@click.argument("url")
@click.option("--limit", type=click.IntRange(min=0), help="List no more than this many.")
@store_option
@version_option
@json_option
def ls(
    *,
    url: str,
    limit: int | None,
    storage_options: Mapping[str, object] | None,
    version: int | None,
    as_json: bool,
) -> None:
    """List index, size of the source file, class and key of the images, in stored order.

    Example:
        pcrstore ls s3://bucket/photos --limit 20
    """
    ds, _ = visit(url, storage_options, version)
    n = len(ds) if limit is None else min(limit, len(ds))
    if as_json:
        emit({"n_images": len(ds), "images": list(_rows(ds, n))})
        return
    for row in _rows(ds, n):
        label = printable(str(row["class"])) if row["class"] is not None else "-"
        key = printable(str(row["key"]))
        click.echo(f"{row['index']:>8}  {row['source_bytes']:>10}  {label:<16}  {key}")


def _rows(ds: Dataset, n: int) -> Iterator[dict[str, object]]:
    names = ("key", "label", "source_bytes", "format")
    for window in windows(n):
        columns = [ds.column(name, window) for name in names]
        for index, key, label, n_bytes, form in zip(window, *columns, strict=True):
            yield {
                "index": index,
                "key": str(key),
                "label": int(label),
                "class": ds.classes[int(label)] if int(label) >= 0 else None,
                "source_bytes": int(n_bytes),
                "format": FORMATS[int(form)],
            }
