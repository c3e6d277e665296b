"""Numbers and sizes that callers give, of Python or NumPy, as Python's own.

Pure. Wrong ones raise OptionError, which says the name of the argument.

    integer(np.int64(3), "epochs", least=1)     3
    real(1, "gap")                              1.0
    parse_size("1.5 kb")                        1500
"""

import operator
import re
from typing import Final, SupportsIndex

import numpy as np

from pcrstore.errors import OptionError

__all__ = ["MAX_SIZE", "integer", "parse_size", "real"]

MAX_SIZE: Final = 2**63 - 1
"""Bytes; what file systems count with (off_t)."""

_SIZE: Final = re.compile(
    r"(\d{1,30})(?:\.(\d{1,30}))?\s*(?:([kmgt]i?)b?|b)?", re.IGNORECASE | re.ASCII
)
_UNITS: Final = {
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
}
_SHOWN: Final = 40
"""Characters of a wrong value that a message repeats."""


def integer(value: object, name: str, *, least: int, most: int | None = None) -> int:
    """Return an integer as Python's own, which JSON can write.

    Args:
        value: What was given.
        name: What an error calls it.
        least: The lowest that may be given.
        most: The highest; None: there is none.

    Raises:
        OptionError: Not an integer (true and false are none), too low, or too high.
    """
    found = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            found = operator.index(value)
        except TypeError:  # an array of several has the method too
            found = None
    if found is None or found < least:
        raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")
    if most is not None and found > most:
        raise OptionError(f"{name} must be at most {most}, got {found}")
    return found


def real(value: object, name: str) -> float:
    """Return a number as Python's own float; it may be infinite or NaN.

    Args:
        value: What was given.
        name: What an error calls it.

    Raises:
        OptionError: Not a number (true and false are none), or too large for a float.
    """
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise OptionError(f"{name} must be at most 1e308, got a larger number") from None
    raise OptionError(f"{name} must be a number, got {value!r}")


def parse_size(value: int | str) -> int:
    """Return a size in bytes.

    Args:
        value: Bytes, or a number and a unit: `kb`, `mb`, `gb`, `tb` are powers of 1000, `kib`,
            `mib`, `gib`, `tib` of 1024, in any case; `b`, or no unit, is bytes. A fraction of a
            byte is left out.

    Raises:
        OptionError: Not a size, negative, or over `MAX_SIZE`.

    >>> parse_size("10gb"), parse_size("1.5 kb"), parse_size("64MiB"), parse_size(10_000)
    (10000000000, 1500, 67108864, 10000)
    """
    n = _number(value)
    if n is None or not 0 <= n <= MAX_SIZE:
        raise OptionError(
            f"size must be bytes or a text such as '10gb' or '64mib', from 0 to 2**63 - 1 bytes, "
            f"got {_shown(value)}"
        )
    return n


def _number(value: object) -> int | None:
    """Return the value in bytes, whatever its sign and size; None if it is no number of bytes."""
    if isinstance(value, str):
        m = _SIZE.fullmatch(value.strip())
        if m is None:
            return None
        fraction = m[2] or ""
        unit = _UNITS[m[3].lower()] if m[3] else 1
        # Whole numbers all the way: a double has 53 bits, and 9007199.254740993gb needs 54.
        return int(m[1] + fraction) * unit // int("1" + "0" * len(fraction))
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"  # Python prints no number that is too long
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
