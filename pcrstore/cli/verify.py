"""`pcrstore verify`: a check of every stored byte."""

from collections.abc import Mapping
from dataclasses import asdict

import click

from pcrstore.cli.params import Bar, json_option, store_option
from pcrstore.cli.text import count, emit, printable, size
from pcrstore.maintenance import verify as verify_dataset

__all__ = ["verify"]


@click.command(short_help="Check every stored byte.")
@click.argument("url")
@store_option
@json_option
def verify(*, url: str, storage_options: Mapping[str, object] | None, as_json: bool) -> int:
    """Read all versions of a dataset and check every byte against its checksum.

    Exits with 1 when something is not what was written, and says what.

    Example:
        pcrstore verify s3://bucket/photos
    """
    with Bar(None, "verify") as progress:
        report = verify_dataset(url, storage_options, progress=progress.advance)
    if as_json:
        emit({"ok": not report.faults, **asdict(report)})
    else:
        for fault in report.faults:
            click.echo(f"{printable(fault.name)}: {printable(fault.message)}")
        found = count(len(report.faults), "fault") if report.faults else "no fault"
        click.echo(
            f"{found}: {count(report.n_images, 'image')}, {count(report.n_objects, 'object')}, "
            f"{size(report.n_bytes)} checked"
        )
        if report.unreferenced:
            click.echo(
                f"{count(len(report.unreferenced), 'object')} of {size(report.unreferenced_bytes)} "
                "belong to no version: of a conversion that is not finished, or that lost a race"
            )
    return 1 if report.faults else 0
