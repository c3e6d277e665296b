"""`pcrstore info`: the contents of a dataset, and the costs of reading it."""

from collections.abc import Mapping, Sequence
from typing import Final

import click

from pcrstore.cli.params import json_option, store_option, version_option, visit
from pcrstore.cli.text import count, dollars, emit, percent, printable, size, table
from pcrstore.cost import DEFAULT_COST
from pcrstore.dataset import Dataset

__all__ = ["info"]

_SHOWN: Final = 10
"""Number of class names shown; all of them are in the JSON."""


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
    """Say what a dataset holds, and what an epoch costs at each fidelity, by a few requests.

    These are two, and two more in the zarr layout.

    Costs are estimates for S3 Standard read from its own region; requests are at most these, as
    neighbouring records are read together where that is cheaper.

    Example:
        pcrstore info s3://bucket/photos --storage-options '{"anon": true}'
    """
    ds, versions = visit(url, storage_options, version)
    if as_json:
        emit({**_facts(ds), "versions": versions})
    else:
        click.echo(_text(ds, versions))


def _epoch(ds: Dataset, k: int) -> tuple[int, int]:
    """Return an upper bound on the requests of an epoch, and its bytes.

    Of the index, the first part of the zarr layout alone is read, for the size of chunks: where a
    later conversion has smaller ones, the bound is an estimate.
    """
    m = ds.manifest
    groups = m.totals.groups[:k]
    n_requests = m.n_records
    if m.layout == "zarr" and m.parts:
        # One range in each array, and one more wherever a chunk ends within a record.
        runs = ds.index.parts([0])[0].placement(0).runs
        crossings = (n // (run.chunk or n or 1) for n, run in zip(groups, runs, strict=False))
        n_requests = k * m.n_records + sum(crossings)
    return n_requests, m.totals.headers + sum(groups)


def _facts(ds: Dataset) -> dict[str, object]:
    m = ds.manifest
    quality = m.measured()
    fifth = None if quality is None else quality.percentiles.get("5")
    fidelities = []
    for k, label in enumerate(m.group_labels, 1):
        n_requests, n_bytes = _epoch(ds, k)
        fidelities.append(
            {
                "fidelity": k,
                "label": label,
                "group_bytes": m.totals.groups[k - 1],
                "bytes_per_image": sum(m.totals.groups[:k]) / max(1, m.n_images),
                "of_full": sum(m.totals.groups[:k]) / max(1, sum(m.totals.groups)),
                "ms_ssim": None if quality is None else quality.mean[k - 1],
                "ms_ssim_p05": None if fifth is None else fifth[k - 1],
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
        "n_measured": 0 if quality is None else quality.n_images,
        "fidelities": fidelities,
        "classes": list(m.classes),
        "splits": list(m.splits),
        "columns": [c.name for c in m.columns],
        "uid": m.uid,
        "conversions": [c.id for c in m.conversions],
        "created": m.created,
        "prices": DEFAULT_COST.prices.name,
    }


def _text(ds: Dataset, versions: Sequence[int]) -> str:
    m = ds.manifest
    t = m.totals
    quality = m.measured()
    rows = []
    for k, label in enumerate(m.group_labels, 1):
        n_requests, n_bytes = _epoch(ds, k)
        rows.append(
            (
                str(k),
                label,
                size(sum(t.groups[:k]) / max(1, m.n_images)),
                percent(sum(t.groups[:k]), sum(t.groups)),
                "-" if quality is None else f"{quality.mean[k - 1]:.4f}",
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
            f"MS-SSIM: mean of {count(quality.n_images if quality else 0, 'image')}. "
            f"Epoch: at most, for {DEFAULT_COST.prices.name}, {mbit:.0f} Mbit/s, "
            f"{DEFAULT_COST.link.concurrency} requests in flight."
        ),
    ]
    return "\n".join(lines)


def _names(one: str, many: str, names: tuple[str, ...]) -> str:
    if not names:
        return f"no {many}"
    shown = ", ".join(printable(n) for n in names[:_SHOWN])
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} {one if len(names) == 1 else many}: {shown}{more}"
