"""Records as they were read, whose images are cut, checked and joined when it is their turn.

    ranges of a want ──▶ Packed ──file(i)──▶ what a decoder takes
                           └── a checksum fails: read again

An image of a prefix is cut by the thread that decodes it, in memory that this thread uses again at
once, where files made ahead would each be fresh pages. Single images of a record are few, and cut
together by the thread that needs the first of them.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.errors import ChecksumError
from pcrstore.fetching import ATTEMPTS
from pcrstore.plan import Prefix, Want
from pcrstore.record import Body, assemble_full
from pcrstore.tail import ending

__all__ = ["Packed", "ReadAgain", "checked", "joined"]

Cell = bytes | NDArray[np.uint8]
Cut = TypeVar("Cut")
ReadAgain = Callable[[], list[bytes]]
"""Reads ranges anew, from where they are stored and from no cache."""


class Packed:
    """A record that was read, or some images of one.

    Args:
        want: What was asked for.
        parts: The bytes of its ranges.
        n_groups: Of the dataset.
        again: Reads it anew when a checksum fails.
    """

    __slots__ = ("_again", "_lock", "_n_groups", "_opened", "_parts", "_want", "n_bytes")

    def __init__(self, want: Want, parts: Sequence[bytes], n_groups: int, again: ReadAgain) -> None:
        self._want = want
        self._parts = parts
        """Until the first image is cut."""
        self._n_groups = n_groups
        self._again = again
        self._lock = threading.Lock()
        self._opened: Body | list[bytes] | None = None
        """A prefix that is cut image by image, or files of single images."""
        self.n_bytes = sum(map(len, parts))

    def file(self, image: int) -> bytes:
        """Return what a decoder takes of one of the images.

        Args:
            image: Counted in the record, or among the images that were asked for.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again.
        """
        opened = self._opened
        if opened is None:
            opened = self._open()
        if isinstance(opened, list):
            return opened[image]
        # No function is made here: its annotations would be evaluated for each image, in 3 us.
        cells = checked(partial(self._cells, opened, image), (), self._again)
        return joined(cells, self._n_groups, opaque=bool(opened.header.opaque[image]))

    def _open(self) -> Body | list[bytes]:
        with self._lock:
            if self._opened is None:
                self._opened = checked(self._opening(), self._parts, self._again)
                self._parts = ()
            return self._opened

    def _opening(self) -> Callable[[Sequence[bytes]], Body | list[bytes]]:
        if isinstance(self._want, Prefix):
            return self._want.open
        return self._files

    def _files(self, parts: Sequence[bytes]) -> list[bytes]:
        return [joined(p.cells, self._n_groups, opaque=p.opaque) for p in self._want.cut(parts)]

    def _cells(
        self, body: Body, image: int, read_again: Sequence[bytes]
    ) -> list[NDArray[np.uint8]]:
        if read_again and isinstance(self._want, Prefix):
            # For the record's other images too.
            body.data = self._want.open(read_again).data
        return body.cells(image)


def checked(cut: Callable[[Sequence[bytes]], Cut], parts: Sequence[bytes], again: ReadAgain) -> Cut:
    """Return what `cut` makes of what was read; read it again while that fails its checksum.

    Raises:
        ChecksumError: Stored bytes are damaged, also after reading them again.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return cut(parts)
        except ChecksumError:
            parts = again()
    return cut(parts)


def joined(cells: Sequence[Cell], n_groups: int, *, opaque: bool) -> bytes:
    """Return what a decoder takes of an image's cells.

    Args:
        cells: Its groups 1..k; views of a record are joined without a copy of each.
        n_groups: Of the dataset: with all of them, metadata moves to the head.
        opaque: Whether the image is kept as a file of its own.
    """
    if opaque:
        return bytes(cells[0])
    if len(cells) == n_groups:
        return assemble_full([bytes(c) for c in cells])
    tail = ending(cells[0])
    return b"".join((*cells, tail))  # type: ignore[arg-type]  # arrays are buffers
