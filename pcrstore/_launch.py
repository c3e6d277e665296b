"""Interrupts of the command line while it starts: imported before anything that takes time.

`python -m pcrstore` and the console script import the package first, which takes a third of a
second. An interrupt then would show where in numpy that was. Programs that import pcrstore keep
the handler that they have.

It imports only what takes no time.
"""

import os
import signal
import sys
from types import FrameType

__all__ = ["is_command_line"]

_INTERRUPTED = 130
_LINE = b"pcrstore: interrupted\n"


def is_command_line(argv: list[str], orig_argv: list[str]) -> bool:
    """Tell pcrstore's own process from one that imports it, by `sys.argv` and `sys.orig_argv`.

    >>> is_command_line(["-m", "info"], ["python", "-m", "pcrstore", "info"])
    True
    >>> is_command_line(["/bin/pcrstore", "ls"], ["python", "/bin/pcrstore", "ls"])
    True
    >>> is_command_line(["train.py", "pcrstore"], ["python", "train.py", "pcrstore"])
    False
    """
    if not argv or len(argv) > len(orig_argv):
        return False
    # What was run stands before the arguments; `-m` has argv[0] in place of its two words.
    ran = orig_argv[len(orig_argv) - len(argv)]
    if argv[0] == "-m":
        return ran.removeprefix("-m") == "pcrstore"
    return ran == argv[0] and ran.rpartition("/")[2] == "pcrstore"


def _end(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, _LINE)
    os._exit(_INTERRUPTED)


if (
    is_command_line(sys.argv, sys.orig_argv)
    # Ignored by a shell that put this into the background; or a program has its own.
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)
