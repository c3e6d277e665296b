"""`pcrstore demo`: a conversion and its fidelities, without an account or a network."""

from dataclasses import asdict

import click

from pcrstore.cli.params import json_option
from pcrstore.cli.text import emit, printable, size, table
from pcrstore.demo import DemoReport, run_demo

__all__ = ["demo"]


@click.command(short_help="See it work on this machine, in a bucket of its own.")
@click.argument("folder", required=False)
@click.option("--keep", metavar="DIR", help="Keep the images and the dataset in this new folder.")
@click.option(
    "--output", metavar="SHEET.png", help="Where the contact sheet goes; default: a temporary file."
)
@json_option
def demo(*, folder: str | None, keep: str | None, output: str | None, as_json: bool) -> None:
    """Convert images into a bucket in this process and read them back at every fidelity.

    Uses the JPEG files of FOLDER, or photos that come with scikit-image and some generated images.
    Needs no account and no network.

    Example:
        pcrstore demo
        pcrstore demo photos/ --output sheet.png
    """
    report = run_demo(
        folder,
        keep=keep,
        output=output,
        say=lambda text: click.echo(printable(text), err=as_json),
    )
    if as_json:
        emit(asdict(report))
    else:
        click.echo(_text(report, keep))


def _text(r: DemoReport, keep: str | None) -> str:
    rows = [
        (
            str(e.fidelity),
            e.label,
            size(e.n_bytes),
            str(e.n_requests),
            f"{100 * e.of_full:.1f} %",
            f"{e.ms_ssim:.4f}" if e.ms_ssim is not None else "-",
            f"{e.images_per_second:,.0f}",
        )
        for e in r.epochs
    ]
    index = r.epochs[-1]
    lines = [
        "",
        f"reading all {r.conversion.n_images} images once, by range requests:",
        table(
            ("fidelity", "adds", "bytes", "GETs", "of full", "MS-SSIM", "images/s"), rows, left=1
        ),
        (
            f"and each time the index: {size(index.index_bytes)} in {index.index_requests} GETs, "
            "after one LIST and one GET to open"
        ),
        "",
        f"contact sheet: {printable(r.sheet)}",
        (
            f"{printable(r.original_key)} came back byte for byte: {size(r.original_bytes)}, "
            f"sha256 {r.original_sha256}"
        ),
    ]
    if keep is not None:
        lines.append(f"kept: {printable(keep)}; try `pcrstore info {printable(keep)}/dataset`")
    return "\n".join(lines)
