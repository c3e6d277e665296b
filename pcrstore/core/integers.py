"""Integers that callers give, of Python or NumPy.

Pure.
"""

import operator
from typing import SupportsIndex

from pcrstore.errors import OptionError

__all__ = ["integer"]


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
