"""`pcrstore export`: the images of a dataset as files."""

from collections.abc import Mapping
from dataclasses import asdict

import click

from pcrstore.cli.params import (
    Bar,
    fidelity_option,
    json_option,
    store_option,
    version_option,
    visit,
)
from pcrstore.cli.text import count, emit, printable, size
from pcrstore.exports import export as export_dataset

__all__ = ["export"]


@click.command(short_help="Write the images to a folder.")
@click.argument("url")
@click.argument("directory", metavar="DIR")
@fidelity_option
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

    Example:
        pcrstore export s3://bucket/photos photos/ --fidelity original
        pcrstore export s3://bucket/photos small/ --fidelity 2
    """
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
