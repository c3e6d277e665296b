"""`pcrstore info`, `ls` and `cat`: look at a dataset without reading all of it."""

import base64
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import click

from pcrstore.cli.params import json_option, store_option, version_option, visit
from pcrstore.cli.text import count, dollars, emit, percent, printable, size, table
from pcrstore.cost import DEFAULT_COST
from pcrstore.dataset import Dataset
from pcrstore.errors import OptionError, UsageError
from pcrstore.format import FORMATS, Manifest

__all__ = ["cat", "info", "ls"]

_INDEX: Final = re.compile(r"[0-9]{1,18}")
_WINDOW: Final = 65_536
"""Images whose columns are read at once."""

_SHOWN: Final = 10
"""Class names shown; all of them are in the JSON."""


@click.command(short_help="Say what a dataset holds and what it costs to read.")
@click.argument("url")
@store_option
@version_option
@json_option
def info(
    *,
    url: str,
    storage_options: Mapping[str, object] | None,
    version: int | None,
    as_json: bool,
) -> None:
    """Say what a dataset holds, and what an epoch costs at each fidelity, by two requests.

    Costs are estimates for S3 Standard read from its own region; requests are at most these, as
    neighbouring records are read together where that is cheaper.

    \b
    Example:
        pcrstore info s3://bucket/photos --storage-options '{"anon": true}'
    """  # noqa: D301 - click reads \b
    ds, versions = visit(url, storage_options, version)
    if as_json:
        emit({**_facts(ds), "versions": versions})
    else:
        click.echo(_info_text(ds, versions))


def _epoch(m: Manifest, k: int) -> tuple[int, int]:
    """Return requests, at most, and bytes of an epoch, but for the index."""
    groups = m.totals.groups[:k]
    n_requests = m.n_records
    if m.layout == "zarr":
        # One run in each array, and one more wherever a chunk ends within a record.
        crossings = (n // size for n, size in zip(groups, m.chunk_bytes, strict=False))
        n_requests = k * m.n_records + sum(crossings)
    return n_requests, m.totals.headers + sum(groups)


def _facts(ds: Dataset) -> dict[str, object]:
    m = ds.manifest
    fidelities = []
    for k, label in enumerate(m.group_labels, 1):
        n_requests, n_bytes = _epoch(m, k)
        measured = bool(m.quality.n_images)
        fidelities.append(
            {
                "fidelity": k,
                "label": label,
                "group_bytes": m.totals.groups[k - 1],
                "bytes_per_image": sum(m.totals.groups[:k]) / max(1, m.n_images),
                "of_full": sum(m.totals.groups[:k]) / max(1, sum(m.totals.groups)),
                "ms_ssim": m.quality.ms_ssim[k - 1] if measured else None,
                "ms_ssim_p05": m.quality.ms_ssim_p05[k - 1] if measured else None,
                "epoch_requests": n_requests,
                "epoch_bytes": n_bytes,
                "epoch_dollars": DEFAULT_COST.dollars(n_requests, n_bytes),
                "epoch_seconds": DEFAULT_COST.seconds(n_requests, n_bytes),
            }
        )
    return {
        "url": ds.url,
        "version": m.version,
        "layout": m.layout,
        "script": {"name": m.script.name, "text": m.script.text},
        "n_images": m.n_images,
        "n_records": m.n_records,
        "n_parts": len(m.parts),
        "bytes": {
            "sources": m.totals.sources,
            "groups": list(m.totals.groups),
            "headers": m.totals.headers,
            "restore": m.totals.restore,
            "index": sum(p.n_bytes for p in m.parts),
        },
        "n_measured": m.quality.n_images,
        "fidelities": fidelities,
        "classes": list(m.classes),
        "splits": list(m.splits),
        "columns": [c.name for c in m.columns],
        "conversion": m.conversion,
        "created": m.created,
        "prices": DEFAULT_COST.prices.name,
    }


def _info_text(ds: Dataset, versions: Sequence[int]) -> str:
    m = ds.manifest
    t = m.totals
    rows = []
    for k, label in enumerate(m.group_labels, 1):
        n_requests, n_bytes = _epoch(m, k)
        rows.append(
            (
                str(k),
                label,
                size(sum(t.groups[:k]) / max(1, m.n_images)),
                percent(sum(t.groups[:k]), sum(t.groups)),
                f"{m.quality.ms_ssim[k - 1]:.4f}" if m.quality.n_images else "-",
                f"{n_requests:,}",
                size(n_bytes),
                dollars(DEFAULT_COST.dollars(n_requests, n_bytes)),
                f"{DEFAULT_COST.seconds(n_requests, n_bytes):.1f} s",
            )
        )
    head = ("fidelity", "adds", "bytes/image", "of full", "MS-SSIM")
    cost = ("epoch GETs", "bytes", "dollars", "time")
    mbit = DEFAULT_COST.link.bandwidth * 8 / 1e6
    lines = [
        printable(ds.url),
        (
            f"version {m.version} of {printable(m.created)}, {m.layout} layout, "
            f"script {printable(m.script.name)}"
        ),
        (
            f"{count(m.n_images, 'image')} in {count(m.n_records, 'record')} and "
            f"{count(len(m.parts), 'index part')}"
        ),
        (
            f"source {size(t.sources)}, scans {size(sum(t.groups))}, headers {size(t.headers)}, "
            f"index {size(sum(p.n_bytes for p in m.parts))}, restore {size(t.restore)}"
        ),
        _names("class", "classes", m.classes),
    ]
    if len(versions) > 1:
        lines.append(f"versions: {', '.join(map(str, versions))}")
    if m.splits:
        lines.append(_names("split", "splits", m.splits))
    lines += [
        "",
        table((*head, *cost), rows, left=1),
        (
            f"MS-SSIM: mean of {count(m.quality.n_images, 'image')}. Epoch: at most, for "
            f"{DEFAULT_COST.prices.name}, {mbit:.0f} Mbit/s, {DEFAULT_COST.link.concurrency} "
            "requests in flight."
        ),
    ]
    return "\n".join(lines)


def _names(one: str, many: str, names: tuple[str, ...]) -> str:
    if not names:
        return f"no {many}"
    shown = ", ".join(printable(n) for n in names[:_SHOWN])
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} {one if len(names) == 1 else many}: {shown}{more}"


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

    \b
    Example:
        pcrstore ls s3://bucket/photos --limit 20
    """  # noqa: D301 - click reads \b
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
    for first in range(0, n, _WINDOW):
        window = range(first, min(n, first + _WINDOW))
        names = ("key", "label", "source_bytes", "format")
        columns = [ds.column(name, window) for name in names]
        for index, key, label, n_bytes, form in zip(window, *columns, strict=True):
            yield {
                "index": index,
                "key": str(key),
                "label": int(label),
                "class": ds.classes[int(label)] if int(label) >= 0 else None,
                "source_bytes": int(n_bytes),
                "format": FORMATS.get(int(form), "unknown"),
            }


@click.command(short_help="Write one image to stdout.")
@click.argument("url")
@click.argument("image", metavar="KEY_OR_INDEX")
@click.option(
    "--fidelity",
    metavar="K|full|original",
    default="full",
    show_default=True,
    help='A number from 1, "full", "original" (the source file byte for byte), "ms-ssim>=0.98" or '
    '"bytes<=20kb".',
)
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

    \b
    Example:
        pcrstore cat s3://bucket/photos cat/7.jpg --fidelity 2 > preview.jpg
        pcrstore cat s3://bucket/photos 0 --fidelity original | sha256sum
    """  # noqa: D301 - click reads \b
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
    for first in range(0, len(ds), _WINDOW):
        window = range(first, min(len(ds), first + _WINDOW))
        for index, found in zip(window, ds.column("key", window), strict=True):
            if str(found) == key:
                return index
    raise OptionError(f"{ds.url}: no image has the key {key!r}; `pcrstore ls` lists them")
