"""The start of the command line: `python -m pcrstore` and the console script.

The commands' libraries take a third of a second to import. An interrupt (SIGINT) in that time
would print a traceback from the middle of an import, so the first thing that runs is a handler
that prints one line. `import pcrstore` alone loads no library and leaves signals as they are.
"""

import os
import signal
from types import FrameType

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def _end(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, b"pcrstore: interrupted\n")
    os._exit(_INTERRUPTED)


def main() -> None:
    """Run the command line; while its libraries are imported an interrupt is one line."""
    # A shell starts what it puts into the background with interrupts ignored: that stays.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from pcrstore.cli import main as command  # noqa: PLC0415 - imported under the handler

    command()


if __name__ == "__main__":  # worker processes import this module too
    main()
