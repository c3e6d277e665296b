"""The command line: `pcrstore convert SRC DST`, and the commands that read a dataset.

    shell      the group of all commands: exit codes, error lines, --json errors, interrupts
    params     arguments that several commands share: sizes, storage options, versions, progress
    classes    lists of class names
    text       numbers, names and tables as text
    cache  cat  convert  demo  export  info  ls  verify      one command each

Results go to stdout, progress and logs to stderr. Exit codes: 0 done, 1 the data is wrong, 2 the
call is wrong, 3 the store cannot be reached. A command is imported when it is first used, so that
`pcrstore info` does not wait for the libraries of `pcrstore demo`.
"""

from importlib.metadata import PackageNotFoundError, version

import click

from pcrstore.cli.shell import Shell, with_examples

__all__ = ["main"]


def _version() -> str:
    try:
        return version("pcrstore")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


@click.group("pcrstore", cls=Shell)
@click.version_option(_version(), prog_name="pcrstore")
def main() -> None:
    """One JPEG dataset, every fidelity, read by range from an object store.

    Example:
        pcrstore convert photos/ s3://bucket/photos
        pcrstore info s3://bucket/photos

    URLs are s3://, gs://, az://, https://, file://, any other that fsspec opens, or a path. Exit
    codes: 0 done, 1 the data is wrong, 2 the call is wrong, 3 the store cannot be reached.
    """


main.help = with_examples(main.help)
