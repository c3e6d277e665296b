"""Scan scripts of more groups than the built-in ones have."""

from itertools import pairwise


def _bands(edges, ah, al):
    """A group for each band between these edges: 1, 3, 64 are 1-2 and 3-63."""
    return "".join(
        f"[ac-{first}-al-{al}]\n*: {first}-{stop - 1}, {ah}, {al}\n"
        for first, stop in pairwise(edges)
    )


THIRTY_TWO = (
    "[dc]\n*: 0-0, 0, 1\n"
    + _bands((1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 36, 45, 64), 0, 2)
    + _bands((1, 3, 6, 10, 15, 21, 36, 64), 2, 1)
    + _bands((1, 3, 6, 10, 15, 21, 28, 36, 64), 1, 0)
    + "[dc-refine]\n*: 0-0, 1, 0\n"
)
"""DC, 15 bands, 7 of their first refinement, 8 of the second, and DC's: 32 groups, and up to 128
scans of an image of four components."""
