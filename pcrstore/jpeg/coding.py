"""Coding of a file's coefficients: its scans, Huffman tables and restart interval.

Pure. A table is in force from its DHT segment on, until another takes its place; one that no
segment has defined is that of T.81 K.3.3, as in Motion JPEG. For coefficients to be coded again to
the same bytes, each scan must be coded with the tables in force at its header:

    SOI SOF DHT(dc 0, ac 0) SOS(Y) ecs DHT(ac 0) SOS(Cb) ecs SOS(Cr) ecs EOI

    scan 0: dc 0, ac 0      scan 1: dc 0, the second ac 0       scan 2: the same

Names and section numbers are from ITU-T T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from pcrstore.jpeg.markers import DHT, DRI, SOS
from pcrstore.jpeg.parser import Jpeg, Scan

__all__ = ["STANDARD_TABLES", "Coding", "pack_scan", "read_coding"]

STANDARD_TABLES = bytes.fromhex(
    # DC luminance and chrominance (K.3, K.4), then AC (K.5, K.6), each a DHT segment of its own in
    # the order in which libjpeg and most cameras write them: DC 0, AC 0, DC 1, AC 1.
    "ffc4001f00 00010501010101010100000000000000 000102030405060708090a0b"
    "ffc400b510 0002010303020403050504040000017d 0102030004110512213141061351610722711432"
    "8191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a43444546474849"
    "4a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3"
    "a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9ea"
    "f1f2f3f4f5f6f7f8f9fa"
    "ffc4001f01 00030101010101010101010000000000 000102030405060708090a0b"
    "ffc400b511 00020102040403040705040400010277 0001020311040521310612415107617113223281"
    "08144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748"
    "494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999a"
    "a2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9"
    "eaf2f3f4f5f6f7f8f9fa"
)
"""The DHT segments of the tables of T.81 K.3.3, which most encoders write."""

_PACKED_TABLE: Final = 16 + 256
_DC_SYMBOLS: Final = range(12)
"""Categories of a difference of 8-bit samples (table F.1)."""
_EOB: Final = 0

_Key = tuple[int, int]
"""Class of a table, 0 for DC and 1 for AC, and its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """Coding of a file's coefficients, in the packed form of `_native/_transcoder.pyi`."""

    scans: bytes
    tables: tuple[bytes, ...] | None
    """DC and AC table of each component. None in progressive mode, where libjpeg makes optimal
    ones."""
    dc_slots: bytes
    """DC table number of each component; those of the same share an optimal table."""
    restart_interval: int
    """In MCUs; 0: none."""
    tables_of_scans: tuple[tuple[bytes, ...], ...]
    """The tables that each scan is coded with; an empty one stands for a table never defined."""

    @property
    def packed(self) -> tuple[bytes, bytes | None, bytes, int]:
        """The tuple that the C transcoder takes."""
        tables = None if self.tables is None else b"".join(self.tables)
        return self.scans, tables, self.dc_slots, self.restart_interval

    def with_all_codes(self) -> "Coding | None":
        """Return the coding with a code for every symbol that may be needed; None where none fits.

        libjpeg may write no bits for a symbol without a code. It could meet one: an EOB where the
        file has runs of zeros instead, or a DC difference in blocks beyond a component's edge,
        where the file has other blocks. With a code for each, sequences of symbols that differ have
        bits that differ, since no code is the start of another. So where the bytes are those of the
        file, the symbols are, too, and the file's own tables have codes for them.
        """
        if self.tables is None:
            return self
        tables: list[bytes] = []
        for i, table in enumerate(self.tables):
            completed = _with_codes(table, (_EOB,) if i % 2 else _DC_SYMBOLS)
            if completed is None:
                return None
            tables.append(completed)
        return replace(self, tables=tuple(tables))


def read_coding(data: bytes, jpeg: Jpeg) -> Coding | None:
    """Read how a parsed file or skeleton is coded; None when libjpeg cannot code so.

    libjpeg's encoder keeps one restart interval for all scans, and a sequential file must send
    each component once.
    """
    tables = dict(_tables(STANDARD_TABLES))
    of_component: dict[int, tuple[bytes, bytes]] = {}
    of_scans: list[tuple[bytes, ...]] = []
    slots: dict[int, int] = {}
    intervals: set[int] = set()
    interval = 0
    scans = iter(jpeg.scans)
    for segment in jpeg.segments:
        body = data[segment.start + 4 : segment.stop]
        if segment.marker == DHT:
            tables.update(_tables(data[segment.start : segment.stop]))
        elif segment.marker == DRI:
            interval = int.from_bytes(body[:2])
        elif segment.marker == SOS:
            intervals.add(interval)
            used: list[bytes] = []
            scan = next(scans)
            # Behind each component id a selector: Td in the high half, Ta in the low (B.2.3).
            for id_, selector in zip(body[1:-3:2], body[2:-3:2], strict=True):
                dc = tables.get((0, selector >> 4), b"")
                ac = tables.get((1, selector & 15), b"")
                slots.setdefault(id_, selector >> 4)  # of the DC scan, which is the first
                of_component[id_] = dc, ac
                used += _used(scan, dc, ac)
            of_scans.append(tuple(used))
    packed = [table for c in jpeg.frame.components for table in of_component.get(c.id, (b"",))]
    if len(intervals) != 1 or not (jpeg.frame.is_progressive or all(packed)):
        return None
    return Coding(
        scans=b"".join(pack_scan(s.components, (s.ss, s.se, s.ah, s.al)) for s in jpeg.scans),
        tables=None if jpeg.frame.is_progressive else tuple(packed),
        dc_slots=bytes(slots.get(c.id, 0) for c in jpeg.frame.components),
        restart_interval=intervals.pop(),
        tables_of_scans=tuple(of_scans),
    )


def _used(scan: Scan, dc: bytes, ac: bytes) -> tuple[bytes, ...]:
    """Return those of a component's tables that a scan is coded with (F.1.2, G.1.2)."""
    needs_dc = scan.ss == 0 and scan.ah == 0  # a refinement of DC is a bit per block
    return (dc,) * needs_dc + (ac,) * (scan.se > 0)


def _with_codes(table: bytes, symbols: Iterable[int]) -> bytes | None:
    r"""Return a table in which each of these symbols has a code; None where no code is free.

    The new codes have 16 bits and follow the table's own, which stay as they are (C.2).

    >>> dc = bytes([0, 1, *[0] * 14, 5]).ljust(272, b"\0")  # 00 is category 5
    >>> longer = _with_codes(dc, (4, 5, 6))
    >>> longer[:16].hex(), longer[16:19].hex()
    ('00010000000000000000000000000002', '050406')
    """
    counts = table[:16]
    n = sum(counts)
    missing = bytes(s for s in symbols if s not in table[16 : 16 + n])
    # Of the 2^16 codes of 16 bits, a code of n bits takes 2^(16 - n), and all ones is none.
    free = 2**16 - 1 - sum(count << (15 - i) for i, count in enumerate(counts))
    if not len(missing) <= min(free, 256 - n, 255 - counts[15]):
        return None
    longest = bytes((counts[15] + len(missing),))
    return (counts[:15] + longest + table[16 : 16 + n] + missing).ljust(_PACKED_TABLE, b"\0")


def pack_scan(components: Sequence[int], parameters: tuple[int, int, int, int]) -> bytes:
    """Return one scan in the packed form of `_native/_transcoder.pyi`.

    Args:
        components: One to four positions in the frame.
        parameters: Ss, Se, Ah and Al.
    """
    return bytes((len(components), *components)).ljust(5, b"\0") + bytes(parameters)


@lru_cache(maxsize=1024)
def _tables(segments: bytes) -> tuple[tuple[_Key, bytes], ...]:
    """Return ((class, slot), packed table) of DHT segments (B.2.4.2); none when they are malformed.

    Cached: most files of a set have the same.
    """
    found: list[tuple[_Key, bytes]] = []
    at = 0
    while at + 4 <= len(segments):
        stop = at + 2 + int.from_bytes(segments[at + 2 : at + 4])
        at += 4
        while at < stop:
            counts = segments[at + 1 : at + 17]
            symbols = segments[at + 17 : at + 17 + sum(counts)]
            if len(counts) != 16 or len(symbols) != sum(counts) or len(symbols) > 256:
                return ()
            found.append(
                ((segments[at] >> 4, segments[at] & 15), counts + symbols.ljust(256, b"\0"))
            )
            at += 17 + len(symbols)
        if at != stop:
            return ()
    return tuple(found)
