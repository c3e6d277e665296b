"""The command line: `pcrstore convert SRC DST`, and what one does with a dataset then.

    shell     one command group: exit codes, error lines, --json errors, interrupts
    params    sizes, storage options, class lists and other arguments
    show      numbers and names as text
    convert   convert
    look      info, ls, cat
    whole     verify, export
    cache     cache
    demo      demo

Results go to stdout, progress and logs to stderr. Exit codes: 0 done, 1 the data is wrong, 2 the
call is wrong, 3 the store cannot be reached.
"""

from importlib.metadata import PackageNotFoundError, version

import click

from pcrstore.cli.cache import cache
from pcrstore.cli.convert import convert
from pcrstore.cli.demo import demo
from pcrstore.cli.look import cat, info, ls
from pcrstore.cli.shell import Shell
from pcrstore.cli.whole import export, verify

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

    \b
    Example:
        pcrstore convert photos/ s3://bucket/photos
        pcrstore info s3://bucket/photos

    URLs are s3://, gs://, az://, https://, file://, any other that fsspec opens, or a path. Exit
    codes: 0 done, 1 the data is wrong, 2 the call is wrong, 3 the store cannot be reached.
    """  # noqa: D301 - click reads \b


for _command in (convert, info, ls, cat, verify, export, cache, demo):
    main.add_command(_command)
