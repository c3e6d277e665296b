"""Previews: pictures that show what the fidelities of a dataset look like.

    sheet    images at every fidelity, side by side as one picture

Only pixels come in and a picture goes out: reading them is the caller's.

Example: one image at two fidelities makes a picture of two columns.

    >>> import numpy as np
    >>> grey = np.full((8, 8, 3), 128, np.uint8)
    >>> row = Row(title="cat/1.jpg", pixels=(grey, grey), captions=("1 kB", "9 kB"))
    >>> contact_sheet(["fidelity 1", "fidelity 2"], [row]).size
    (494, 310)
"""

from pcrstore.preview.sheet import Row, contact_sheet

__all__ = [
    "Row",
    "contact_sheet",
]
