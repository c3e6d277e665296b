"""CRC32C, and checksums that are bound to the place to which their bytes belong.

Pure. A plain checksum accepts the right bytes from the wrong place: another record's prefix, a
stale object, two images swapped. So the checksum stored for a cell (image i, scan group g) of a
record is

    crc32c(bytes)  XOR  (seed + i * 0x9E3779B1 + g * 0x85EBCA6B  mod 2**32)

where seed = crc32c(object uid || record ordinal). The reader derives that word from the place at
which it looked. The XOR is as strong as hashing the place with the bytes, and takes three NumPy
operations for a whole record. The multipliers are odd, so that no two images share the word of a
group in a record of less than 2**32 images.
"""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

__all__ = ["UID_BYTES", "crc32c", "place_words", "record_seed"]

UID_BYTES = 16
"""Length of the unique id of an object, part or Zarr group."""

IMAGE_STEP = 0x9E3779B1
GROUP_STEP = 0x85EBCA6B


crc32c: Final[Callable[[bytes | NDArray[np.uint8]], int]] = google_crc32c.value
"""Returns the CRC32C (Castagnoli, RFC 3720 appendix B.4) of bytes."""


def record_seed(uid: bytes, ordinal: int) -> int:
    """Return the 32-bit seed that binds checksums to record `ordinal` of the object `uid`."""
    return crc32c(uid + struct.pack("<Q", ordinal))


def place_words(seed: int, images: int | Sequence[int], n_groups: int) -> NDArray[np.uint32]:
    """Return the words to XOR into the cell checksums of a record.

    Args:
        seed: From `record_seed`.
        images: The number of images of the record, or the positions of those wanted.
        n_groups: Columns wanted, from group 1 on.

    Returns:
        (images, groups) uint32.
    """
    if isinstance(images, int):
        table = _steps(n_groups)
        steps = table[:images] if images <= len(table) else _steps_of(np.arange(images), n_groups)
    else:
        steps = _steps_of(np.asarray(images), n_groups)
    return steps + np.uint32(seed)


@lru_cache(maxsize=8)
def _steps(n_groups: int) -> NDArray[np.uint32]:
    """Return the steps of a record larger than most: it is the same table for every record."""
    return _steps_of(np.arange(1024), n_groups)


def _steps_of(rows: NDArray[np.integer], n_groups: int) -> NDArray[np.uint32]:
    i = rows.astype(np.uint32)[:, None] * np.uint32(IMAGE_STEP)
    g = np.arange(n_groups, dtype=np.uint32)[None, :] * np.uint32(GROUP_STEP)
    return i + g
