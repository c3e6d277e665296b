"""Numbers that callers give, of Python or NumPy, where fractions are fine.

Pure.
"""

import numpy as np

from pcrstore.errors import OptionError

__all__ = ["real"]


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
