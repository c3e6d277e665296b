"""The group of all commands, in which every failure becomes one line and an exit code.

0  done
1  the data is wrong: a source file, stored bytes, an image
2  the call is wrong: arguments, options, a URL where no dataset is
3  the store cannot be reached, or refuses
130  interrupted        141  the reader of stdout is gone        70  a bug of ours
"""

import contextlib
import errno
import inspect
import io
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import FrameType
from typing import Final

import click

from pcrstore.cli.text import printable
from pcrstore.errors import NotFoundError, PcrstoreError, StoreError, UsageError

__all__ = ["Shell", "exit_code", "with_examples"]

_COMMANDS: Final = ("cache", "cat", "convert", "demo", "export", "info", "ls", "verify")
"""Each is the function of this name in the module of this name."""

_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141
_UNWRITABLE: Final = 1
_BUG: Final = 70
"""As sysexits.h's EX_SOFTWARE."""

_GRACE: Final = 3.0
"""Seconds from an interrupt until the process ends, whatever still runs: nothing else cuts short
the put of a large object."""

_TRACEBACK: Final = "PCRSTORE_TRACEBACK"
"""Environment variable that, when set, adds a traceback to errors."""


def exit_code(error: PcrstoreError) -> int:
    """Return the exit code of an error: see this module's docstring.

    A `NotFoundError` that no library caused is ours: the store answered, and what the call names is
    not there.
    """
    if isinstance(error, UsageError):
        return 2
    if isinstance(error, NotFoundError) and error.__cause__ is None:
        return 2
    return 3 if isinstance(error, StoreError) else 1


class Shell(click.Group):
    """The group of all commands, each of which is imported when it is first used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of the name."""
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module = import_module(f"pcrstore.cli.{cmd_name}")
            command: click.Command = getattr(module, cmd_name)
            command.help = with_examples(command.help)
            self.add_command(command)
        return super().get_command(ctx, cmd_name)

    def main(  # type: ignore[override]  # click overloads it by standalone_mode; a shell is alone
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: object
    ) -> None:
        """Run a command and exit."""
        words = list(sys.argv[1:] if args is None else args)
        with _streams():
            self._import(words)
            with _interruptible():
                code = self._run(words, prog_name or "pcrstore")
        sys.exit(code)

    def _import(self, words: Sequence[str]) -> None:
        """Import the command before interrupts become exceptions.

        Libraries may swallow an exception in the middle of their import; the handler of `__main__`
        ends the process. Another failure happens again, and is reported, when the command runs.
        """
        with contextlib.suppress(Exception), click.Context(self) as ctx:
            self.get_command(ctx, words[0] if words else "")

    def invoke(self, ctx: click.Context) -> object:
        """Run the command of a parsed command line; end quietly when nobody reads its output."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered would raise again when the interpreter flushes it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_BROKEN_PIPE)
        return result

    def _run(self, words: list[str], name: str) -> int:
        as_json = "--json" in words
        try:
            code: object = super().main(words, name, standalone_mode=False)
        except click.ClickException as e:
            return _misused(e, as_json=as_json)
        except PcrstoreError as e:
            return _failed(e, as_json=as_json)
        except (click.Abort, KeyboardInterrupt):
            again = "; run the same command again to go on" if "convert" in words[:1] else ""
            click.echo(f"pcrstore: interrupted{again}", err=True)
            return _told(KeyboardInterrupt(), f"interrupted{again}", _INTERRUPTED, as_json=as_json)
        except Exception as e:  # noqa: BLE001 - whatever it is, people get a line and not a stack
            return _broken(e, as_json=as_json)
        return code if isinstance(code, int) else 0


def with_examples(text: str | None) -> str:
    """Mark the examples in a help text, or click would fill their lines like a paragraph's."""
    return inspect.cleandoc(text or "").replace("Example:\n", "\b\nExample:\n")


def _is_our_output(error: OSError) -> bool:
    """Return True if stdout failed, False if a file that pcrstore itself uses did."""
    return error.filename is None and error.errno in {errno.ENOSPC, errno.EIO, errno.EBADF}


def _misused(error: click.ClickException, *, as_json: bool) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show(sys.stderr)
    else:
        ctx = getattr(error, "ctx", None)
        hint = f" (see {ctx.command_path} --help)" if ctx is not None else ""
        click.echo(f"pcrstore: error: {printable(error.format_message())}{hint}", err=True)
    return _told(error, error.format_message(), error.exit_code, as_json=as_json)


def _failed(error: PcrstoreError, *, as_json: bool) -> int:
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    first, *more = str(error).split("\n")
    click.echo(f"pcrstore: error: {printable(first)}", err=True)
    for line in more:
        click.echo(printable(line), err=True)
    return _told(error, str(error), exit_code(error), as_json=as_json)


def _broken(error: Exception, *, as_json: bool) -> int:
    if isinstance(error, OSError) and _is_our_output(error):
        click.echo(f"pcrstore: error: cannot write the output: {error.strerror}", err=True)
        return _UNWRITABLE
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    message = (
        f"this is a bug in pcrstore: {type(error).__name__}: {error}; {_TRACEBACK}=1 shows where"
    )
    click.echo(f"pcrstore: error: {printable(message)}", err=True)
    return _told(error, message, _BUG, as_json=as_json)


def _told(error: BaseException, message: str, code: int, *, as_json: bool) -> int:
    """Print the error on stdout too, for programs that read JSON; return its exit code."""
    if as_json:
        with contextlib.suppress(OSError):
            body = {"error": {"type": type(error).__name__, "message": message}}
            click.echo(json.dumps(body, indent=1))
    return code


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Escape names that a terminal cannot show, and print warnings as lines of this program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    log = logging.getLogger("pcrstore")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Line(logging.Formatter):
    """A log record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        return f"pcrstore: {record.levelname.lower()}: {printable(record.getMessage())}"


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End within `_GRACE` of an interrupt, workers first: they ignore it themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        timer = threading.Timer(_GRACE, os._exit, (_INTERRUPTED,))
        timer.daemon = True
        timer.start()
        for child in multiprocessing.active_children():
            child.terminate()
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
