"""`pcrstore verify` and `export`: read all of a dataset."""

from collections.abc import Mapping
from dataclasses import asdict

import click

from pcrstore.cli.params import Bar, json_option, store_option, version_option, visit
from pcrstore.cli.text import count, emit, printable, size
from pcrstore.exports import export as export_dataset
from pcrstore.maintenance import verify as verify_dataset

__all__ = ["export", "verify"]


@click.command(short_help="Check every stored byte.")
@click.argument("url")
@store_option
@json_option
def verify(*, url: str, storage_options: Mapping[str, object] | None, as_json: bool) -> int:
    """Read all versions of a dataset and check every byte against its checksum.

    Exits with 1 when something is not what was written, and says what.

    \b
    Example:
        pcrstore verify s3://bucket/photos
    """  # noqa: D301 - click reads \b
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


@click.command(short_help="Write the images to a folder.")
@click.argument("url")
@click.argument("directory", metavar="DIR")
@click.option(
    "--fidelity",
    metavar="K|full|original",
    default="full",
    show_default=True,
    help='A number from 1, "full", "original" (the source files byte for byte), "ms-ssim>=0.98" or '
    '"bytes<=20kb".',
)
@store_option
@version_option
@json_option
def export(
    *,
    url: str,
    directory: str,
    fidelity: str,
    storage_options: Mapping[str, object] | None,
    version: int | None,
    as_json: bool,
) -> None:
    """Write every image as a file named by its key, into a folder that is new or empty.

    \b
    Example:
        pcrstore export s3://bucket/photos photos/ --fidelity original
        pcrstore export s3://bucket/photos small/ --fidelity 2
    """  # noqa: D301 - click reads \b
    ds, _ = visit(url, storage_options, version)
    with Bar(len(ds), "export") as progress:
        report = export_dataset(ds, directory, fidelity=fidelity, progress=progress.advance)
    if as_json:
        emit(asdict(report))
    else:
        click.echo(
            f"{count(report.n_files, 'file')}, {size(report.n_bytes)}, in "
            f"{printable(report.directory)}"
        )
