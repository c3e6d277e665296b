"""The end-of-band tail: scans that tell a decoder that no more coefficients come.

Pure. libjpeg smooths blocks while it expects more AC coefficients: that is slower, worse at reduced
size, and not the same from version to version. So a prefix of the scans is followed by

    DRI 0 | DHT | SOS component 0, 1-63, Ah=Al=0 | EOB runs | SOS component 1 | EOB runs | ...

in which every block of every component is end-of-band. Such a scan changes no coefficient
(G.1.2.2: a first AC scan writes only what it codes), but marks all of them as known exactly.
About 100 bytes for a photo in colour. After bit-plane scans libjpeg warns of an "inconsistent
progression", so a decoder must be lenient.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pcrstore.jpeg.markers import EOI, SOI, Frame
from pcrstore.jpeg.parser import frame_segment, parse_frame

__all__ = ["end_of_band_tail", "ending"]

_LONGEST_RUN = 32767
"""EOB14 with all its 14 extra bits set (G.1.2.2, table G.1)."""


@lru_cache(maxsize=4096)
def end_of_band_tail(frame: Frame) -> bytes:
    """Return the scans to put between a prefix of an image's scans and its EOI."""
    runs = [
        _runs(rows * columns) for rows, columns in map(frame.blocks, range(len(frame.components)))
    ]
    # A run of 2**n + e blocks is symbol n << 4 and e in n bits: 130 blocks are 2**7 + 2, so symbol
    # 0x70 and the bits 0000010. The i-th symbol has the code of i ones and a zero, so that no code
    # is all ones, which C.2 forbids: codes 0, 10, 110 for three run lengths.
    exponents = sorted({r.bit_length() - 1 for one in runs for r in one}, reverse=True)
    codes = {n: ((1 << (i + 1)) - 2, i + 1) for i, n in enumerate(exponents)}
    counts = [1] * len(exponents) + [0] * (16 - len(exponents))
    table = bytes([0x10, *counts, *(n << 4 for n in exponents)])
    parts = [b"\xff\xdd\x00\x04\x00\x00", b"\xff\xc4", (2 + len(table)).to_bytes(2), table]
    for component, one in zip(frame.components, runs, strict=True):
        parts.append(bytes([0xFF, 0xDA, 0, 8, 1, component.id, 0x00, 1, 63, 0]))
        parts.append(_entropy_coded(one, codes))
    return b"".join(parts)


def ending(first_cell: bytes | NDArray[np.uint8]) -> bytes:
    """Return the tail and EOI to put behind some of an image's scans.

    Args:
        first_cell: The image from SOI to its first scans: its group 1.
    """
    return _ending(frame_segment(first_cell))


@lru_cache(maxsize=4096)
def _ending(segment: bytes) -> bytes:
    return end_of_band_tail(parse_frame(SOI + segment)) + EOI


def _runs(n_blocks: int) -> list[int]:
    full, rest = divmod(n_blocks, _LONGEST_RUN)
    return [_LONGEST_RUN] * full + ([rest] if rest else [])


def _entropy_coded(runs: Iterable[int], codes: dict[int, tuple[int, int]]) -> bytes:
    bits, n_bits = 0, 0
    for run in runs:
        n = run.bit_length() - 1
        code, length = codes[n]
        bits = ((bits << length | code) << n) | (run - (1 << n))
        n_bits += length + n
    padding = -n_bits % 8
    bits = bits << padding | ((1 << padding) - 1)  # F.1.2.3
    return bits.to_bytes((n_bits + padding) // 8).replace(b"\xff", b"\xff\x00")
