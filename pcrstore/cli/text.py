"""Numbers, names and tables as text for people, and values as JSON for programs.

Pure but for `emit`, which prints.
"""

import json
from collections.abc import Sequence

import click

__all__ = ["count", "dollars", "emit", "percent", "printable", "size", "table"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    r"""Return the text with everything that is not a printable character escaped.

    A file name may hold control sequences that would repaint the terminal.

    >>> printable("a\x1b[31mb.jpg")
    'a\\x1b[31mb.jpg'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def size(n_bytes: float) -> str:
    """Return a number of bytes in units of 1000.

    >>> size(999), size(1234567)
    ('999 bytes', '1.23 MB')
    """
    value, unit = float(n_bytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{n_bytes:.0f} byte{'' if n_bytes == 1 else 's'}"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def count(n: int, noun: str) -> str:
    """Return a number and its noun.

    >>> count(1, "image"), count(12345, "image")
    ('1 image', '12,345 images')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def percent(part: float, whole: float) -> str:
    """Return a share.

    >>> percent(1, 3), percent(1, 0)
    ('33.3 %', '-')
    """
    return f"{100 * part / whole:.1f} %" if whole else "-"


def dollars(amount: float) -> str:
    """Return an amount of money; a small one has two significant digits.

    >>> dollars(0.0000034), dollars(12.3)
    ('$0.0000034', '$12.30')
    """
    if amount == 0 or amount >= 0.1:
        return f"${amount:.2f}"
    text = f"{amount:.1e}"
    digits = int(text.partition("e-")[2]) + 1
    return f"${amount:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 0) -> str:
    """Return a table with aligned columns; only column `left` is aligned to the left.

    >>> print(table(("n", "name"), [("1", "dc"), ("10", "high")], left=1))
     n  name
     1  dc
    10  high
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)


def emit(value: object) -> None:
    """Print a value as the one JSON document of this run."""
    click.echo(json.dumps(value, indent=1))
