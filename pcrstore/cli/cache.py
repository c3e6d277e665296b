"""`pcrstore cache`: the contents of a cache folder, shown or removed."""

from datetime import UTC, datetime

import click

from pcrstore.cli.params import json_option
from pcrstore.cli.text import count, emit, percent, printable, size, table
from pcrstore.errors import OptionError
from pcrstore.storage import Cache, DatasetUsage, Usage

__all__ = ["cache"]


@click.command(short_help="Show or empty a cache on this machine.")
@click.argument("folder")
@click.option("--clear", is_flag=True, help="Remove what it holds; readers go on without.")
@click.option("--url", help="With --clear: only this dataset's, by its URL as shown.")
@json_option
def cache(*, folder: str, clear: bool, url: str | None, as_json: bool) -> None:
    """Show what a cache folder holds of which dataset, or empty it.

    Only files that a cache makes are removed, and only from a folder that is one.

    Example:
        pcrstore cache /scratch/pcrstore-cache
        pcrstore cache /scratch/pcrstore-cache --clear --url s3://bucket/photos
    """
    if url is not None and not clear:
        raise OptionError("--url is for --clear")
    at = Cache.existing(folder)
    usage = at.usage()
    if clear:
        urls = [d.url for d in usage.datasets]
        if url is not None and url not in urls:
            held = ", ".join(sorted(u for u in urls if u)) or "no dataset"
            raise OptionError(f"cache {folder} holds nothing of {url}, it holds {held}")
        usage = at.clear(url)
    if as_json:
        emit({"folder": folder, "cleared": clear, **_facts(usage)})
    else:
        click.echo(_text(folder, usage, cleared=clear))


def _facts(usage: Usage) -> dict[str, object]:
    return {
        "limit": usage.limit,
        "n_entries": usage.n_entries,
        "n_bytes": usage.n_bytes,
        "datasets": [
            {
                "url": d.url,
                "n_entries": d.n_entries,
                "n_bytes": d.n_bytes,
                "oldest": _time(d.oldest).isoformat(timespec="seconds"),
                "newest": _time(d.newest).isoformat(timespec="seconds"),
            }
            for d in usage.datasets
        ],
    }


def _text(folder: str, usage: Usage, *, cleared: bool) -> str:
    held = f"{_count(usage.n_entries)}, {size(usage.n_bytes)}"
    if cleared:
        return f"{printable(folder)}: removed {held}"
    share = percent(usage.n_bytes, usage.limit)
    of = f"of {size(usage.limit)} ({share})"
    lines = [f"{printable(folder)}: {count(len(usage.datasets), 'dataset')}, {held} {of}"]
    if usage.datasets:
        head = ("entries", "bytes", "last use", "dataset")
        lines += ["", table(head, [_row(d) for d in usage.datasets], left=3)]
    return "\n".join(lines)


def _row(d: DatasetUsage) -> tuple[str, str, str, str]:
    last = f"{_time(d.newest):%Y-%m-%d %H:%M} UTC"
    return f"{d.n_entries:,}", size(d.n_bytes), last, printable(d.url or "(its URL was lost)")


def _count(n: int) -> str:
    return f"{n:,} {'entry' if n == 1 else 'entries'}"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
