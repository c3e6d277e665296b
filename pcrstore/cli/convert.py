"""`pcrstore convert`: a dataset made of a folder of images."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

import click

from pcrstore.cli.classes import read_classes
from pcrstore.cli.params import (
    SIZE,
    STORAGE_OPTIONS,
    Bar,
    json_option,
    read_script,
)
from pcrstore.cli.text import count, emit, percent, printable, size, table
from pcrstore.conversion import OBJECT_BYTES, POLICIES, RECORD_BYTES, Options, Report
from pcrstore.conversion import convert as convert_folder
from pcrstore.errors import UsageError
from pcrstore.jpeg import BUILTIN

__all__ = ["convert"]

_SHOWN: Final = 20
"""Number of problems listed; all of them are in the JSON and in the stored report."""


@click.command(short_help="Make a dataset of a folder of images.")
@click.argument("source", metavar="SRC_URL")
@click.argument("destination", metavar="DST_URL")
@click.option(
    "--layout",
    type=click.Choice(["record", "zarr"]),
    default="record",
    show_default=True,
    help="Objects of records, or a Zarr v3 group with one array per scan group.",
)
@click.option(
    "--script",
    metavar="NAME|FILE",
    default="sa5",
    show_default=True,
    help=f"How scans are grouped: {', '.join(BUILTIN)}, or a script file.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
@click.option(
    "--record-bytes",
    type=SIZE,
    help="Source bytes per record, what a reader asks for at once; default: "
    f"{RECORD_BYTES >> 20}mib.",
)
@click.option("--record-images", type=click.IntRange(min=1), help="Images per record instead.")
@click.option(
    "--object-bytes",
    type=SIZE,
    default=OBJECT_BYTES,
    help=f"Size of the stored objects; default: {OBJECT_BYTES >> 20}mib.",
)
@click.option(
    "--on-error",
    type=click.Choice(POLICIES),
    default="raise",
    show_default=True,
    help="What becomes of a file that cannot be kept losslessly as a progressive JPEG: fail, leave "
    "it out, keep it as it is, or encode it (its original stays).",
)
@click.option(
    "--encode-quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="JPEG quality of --on-error encode.",
)
@click.option(
    "--split-dirs",
    is_flag=True,
    help="The source is SPLIT/CLASS/image, such as train/cat/1.jpg, not CLASS/image.",
)
@click.option(
    "--classes",
    metavar="FILE|URL",
    help="Class names in the order of their ids: a JSON list, a JSON object of ids by name, a text "
    "file with a name per line, or another dataset. Remote ones are read with the storage options "
    "of the destination or source with the same scheme.",
)
@click.option(
    "--no-shuffle", is_flag=True, help="Store in order of name; else in a seeded random order."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of that order.")
@click.option(
    "--restart",
    is_flag=True,
    help="Drop what an unfinished conversion did whose source has changed since.",
)
@click.option(
    "--src-storage-options", type=STORAGE_OPTIONS, help="fsspec options of SRC_URL, or @FILE."
)
@click.option(
    "--dst-storage-options", type=STORAGE_OPTIONS, help="fsspec options of DST_URL, or @FILE."
)
@json_option
def convert(  # noqa: PLR0913 - one parameter per option
    *,
    source: str,
    destination: str,
    layout: str,
    script: str,
    workers: int | None,
    record_bytes: int | None,
    record_images: int | None,
    object_bytes: int,
    on_error: str,
    encode_quality: int,
    split_dirs: bool,
    classes: str | None,
    no_shuffle: bool,
    seed: int,
    restart: bool,
    src_storage_options: Mapping[str, object] | None,
    dst_storage_options: Mapping[str, object] | None,
    as_json: bool,
) -> None:
    r"""Convert a folder of JPEGs, one subfolder per class, into a dataset.

    Nothing is visible before all is stored and verified, and every source file can be had back byte
    for byte. Run the same command again to go on after an interruption; once it is done, that does
    nothing.

    Example:
        pcrstore convert photos/ s3://bucket/photos
        pcrstore convert s3://raw/imagenet gs://bucket/imagenet --split-dirs --workers 16 \
            --on-error skip --record-bytes 8mib
    """
    if record_bytes is not None and record_images is not None:
        raise UsageError("give --record-bytes or --record-images, not both")
    known = None
    if classes is not None:
        known = read_classes(
            classes, {destination: dst_storage_options, source: src_storage_options}
        )
    options = Options(
        layout=layout,
        script=read_script(script),
        record_bytes=_record_bytes(record_bytes, record_images),
        record_images=record_images,
        object_bytes=object_bytes,
        policy=on_error,
        encode_quality=encode_quality,
        split_dirs=split_dirs,
        classes=known,
        shuffle=not no_shuffle,
        seed=seed,
    )
    progress = _Progress()
    try:
        report = convert_folder(
            source,
            destination,
            options,
            workers=workers,
            source_options=src_storage_options,
            destination_options=dst_storage_options,
            restart=restart,
            progress=progress,
        )
    finally:
        progress.close()
    if as_json:
        emit({**asdict(report), "stored_bytes": report.stored_bytes})
    else:
        click.echo(_text(report, options.parsed_script().labels))


class _Progress:
    """Progress of a conversion, as a bar."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._n_bytes = 0

    def begin(self, n_images: int, n_done: int) -> None:
        self._bar = Bar(n_images, "convert")
        if n_done:
            click.echo(f"going on after {count(n_done, 'image')} of an earlier run", err=True)
            self._bar.advance(n_done)

    def advance(self, n_images: int, n_bytes: int) -> None:
        if self._bar is not None:
            self._n_bytes += n_bytes
            self._bar.advance(n_images, size(self._n_bytes))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _text(report: Report, labels: tuple[str, ...]) -> str:
    """Return a report as text for people."""
    r = report
    lines = []
    if r.already:
        lines.append("nothing to do: this very conversion is there already")
    lines += [
        (
            f"{count(r.n_images, 'image')} of {count(r.n_files, 'file')} in "
            f"{count(r.n_records, 'record')} and {count(r.n_objects, 'object')}, "
            f"{r.layout} layout, script {r.script}, version {r.version}"
        ),
        f"source    {size(r.source_bytes):>10}",
        (
            f"stored    {size(r.stored_bytes):>10}  {percent(r.stored_bytes, r.source_bytes)} "
            f"of the source: scans {size(sum(r.group_bytes))}, headers {size(r.header_bytes)}, "
            f"index {size(r.index_bytes)}"
        ),
        (
            f"restore   {size(r.restore_bytes):>10}  {percent(r.restore_bytes, r.source_bytes)} "
            "of the source: gives the originals back, read for nothing else"
        ),
        "",
        _groups(r, labels),
    ]
    if r.n_measured:
        lines.append(f"MS-SSIM against full fidelity, mean of {count(r.n_measured, 'image')}")
    if r.restore_kinds:
        kinds = (f"{k} {n:,} ({size(b)})" for k, (n, b) in r.restore_kinds.items())
        lines.append(f"originals come back by: {', '.join(kinds)}")
    if r.n_hidden:
        lines.append(f"left out: {count(r.n_hidden, 'hidden file')}")
    lines += _problems(r)
    if not r.already:
        rate = (r.n_images - r.n_resumed) / r.seconds if r.seconds else 0.0
        lines += ["", f"{r.seconds:.1f} s, {rate:.1f} images/s"]
    return "\n".join(lines)


def _groups(r: Report, labels: tuple[str, ...]) -> str:
    rows = []
    total = 0
    for k, n_bytes in enumerate(r.group_bytes, 1):
        total += n_bytes
        rows.append(
            (
                str(k),
                labels[k - 1] if k <= len(labels) else "",
                size(n_bytes),
                size(total / max(1, r.n_images)),
                percent(total, sum(r.group_bytes)),
                f"{r.ms_ssim[k - 1]:.4f}" if r.ms_ssim else "-",
            )
        )
    head = ("fidelity", "adds", "group", "bytes/image", "of full", "MS-SSIM")
    return table(head, rows, left=1)


def _problems(r: Report) -> list[str]:
    if not r.problems:
        return []
    lines = [""]
    by_kind = Counter((p.outcome, p.reason) for p in r.problems)
    ranked = sorted(by_kind.items(), key=lambda item: (-item[1], item[0]))
    lines.append(f"{count(len(r.problems), 'file')} that cannot be kept losslessly as JPEG:")
    lines += [f"  {n:>7,} {outcome}: {printable(why)}" for (outcome, why), n in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        lines.append(f"  and {count(len(ranked) - _SHOWN, 'other reason')}")
    lines += [
        f"  {printable(p.key)}: {p.outcome}, {printable(p.reason)}" for p in r.problems[:_SHOWN]
    ]
    if len(r.problems) > _SHOWN:
        lines.append(f"  and {len(r.problems) - _SHOWN:,} more; --json lists all")
    return lines


def _record_bytes(given: int | None, images: int | None) -> int | None:
    """Return the size of records by bytes; None when images alone decide."""
    if given is not None:
        return given
    return None if images is not None else RECORD_BYTES
