"""The coefficients of a JPEG coded again by another file's headers, as FORMAT.md says.

Written from the page and ITU-T T.81 (https://www.w3.org/Graphics/JPEG/itu-t81.pdf), whose terms and
section numbers these are. It imports the standard library and NumPy, and neither pcrstore nor a
library for images: it shows that originals depend on none.

    jpeg (progressive, of all cells) ──decode──▶ coefficients ──encode──▶ entropy-coded segments
                                                                  ▲
    skeleton (headers of the source) ─────────────────────────────┘

Coefficients are held in zigzag order: an array of 64 columns for each component, and a row for each
of its blocks, from left to right and from top to bottom (A.2.2).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

TEM, DHT, SOI, EOI, SOS, DRI = 0x01, 0xC4, 0xD8, 0xD9, 0xDA, 0xDD
RSTM = range(0xD0, 0xD8)
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2

ZRL = 0xF0
MOST_BLOCKS_IN_RUN = 32767
MOST_WAITING_BITS = 937

END_OF_SEGMENT = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")

BIT_LENGTH = np.array([n.bit_length() for n in range(1 << 16)])

STANDARD = bytes.fromhex(
    "ffc4001f0000010501010101010100000000000000000102030405060708090a0bffc400b51000020103030204030505"
    "04040000017d01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718"
    "191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a83"
    "8485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6"
    "d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffc4001f0100030101010101010101010000000000000102"
    "030405060708090a0bffc400b51100020102040403040705040400010277000102031104052131061241510761711322"
    "328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a"
    "535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7"
    "a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
"""DHT segments of the tables of K.3.3, in force until others are defined."""


def recode(skeleton: bytes, jpeg: bytes) -> list[bytes]:
    """Return the entropy-coded segments that belong behind the scan headers of a skeleton.

    Args:
        skeleton: A sequential or progressive file without its entropy-coded segments.
        jpeg: A progressive file of the same image.

    Raises:
        ValueError: A file of another kind or a damaged one, or a symbol without a code.
    """
    frame, scans = read(jpeg)
    if frame.sof != PROGRESSIVE:
        raise ValueError(f"a progressive file expected, got SOF {frame.sof:#x}")
    coefficients = [np.zeros((rows * columns, 64), int) for rows, columns in frame.sizes]
    for scan in scans:
        decode(frame, scan, coefficients)
    frame, scans = read(skeleton)
    return [encode(frame, scan, coefficients) for scan in scans]


# ---- headers


@dataclass(frozen=True)
class Table:
    """A Huffman table: the code of each symbol and its length in bits, 0 where it has none."""

    codes: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Frame:
    sof: int
    ids: list[int]
    sampling: list[tuple[int, int]]
    """Hi and Vi of each component."""
    sizes: list[tuple[int, int]]
    """Rows and columns of blocks of each component."""
    mcus: tuple[int, int]
    """Rows and columns of MCUs in a scan of several components."""


@dataclass(frozen=True)
class Scan:
    components: list[int]
    """Positions in the frame."""
    dc: list[Table | None]
    """For each of them the table in force."""
    ac: list[Table | None]
    ss: int
    se: int
    ah: int
    al: int
    interval: int
    """Restart interval in MCUs; 0: none."""
    data: bytes
    """The entropy-coded segment."""


def read(data: bytes) -> tuple[Frame, list[Scan]]:
    """Read the frame header, and each scan with the tables in force at its header."""
    tables: dict[tuple[int, int], Table] = {}
    for start, stop in pairwise((0, 33, 216, 249, 432)):
        tables.update(tables_of(STANDARD[start + 4 : stop]))
    frame, scans, interval = None, [], 0
    for marker, body, coded_bytes in segments_of(data):
        if marker == DHT:
            tables.update(tables_of(body))
        elif marker == DRI:
            interval = int.from_bytes(body)
        elif marker in (*SEQUENTIAL, PROGRESSIVE):
            frame = frame_of(marker, body)
        elif marker == SOS:
            scans.append(scan_of(frame, body, tables, interval, coded_bytes))
    return frame, scans


def segments_of(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield marker, parameters and, behind a scan header, the entropy-coded segment (B.1.1)."""
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        marker = data[at + 1]
        if data[at] != 0xFF or marker == SOI:
            raise ValueError(f"a marker expected at {at}")
        if marker == EOI:
            return
        if marker == TEM or marker in RSTM:  # no parameters follow
            at += 2
            continue
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        end = END_OF_SEGMENT.search(data, stop).start() if marker == SOS else stop
        yield marker, data[at + 4 : stop], data[stop:end]
        at = end


def tables_of(body: bytes) -> Iterator[tuple[tuple[int, int], Table]]:
    """Yield ((class, number), table) of the parameters of a DHT segment (B.2.4.2, C.2)."""
    while body:
        counts = body[1:17]
        symbols = body[17 : 17 + sum(counts)]
        codes, sizes = np.zeros((2, 256), int)
        code = i = 0
        for size, count in enumerate(counts, start=1):
            for symbol in symbols[i : i + count]:
                codes[symbol], sizes[symbol] = code, size
                code += 1
            code, i = code << 1, i + count
        yield divmod(body[0], 16), Table(codes, sizes)
        body = body[17 + len(symbols) :]


def frame_of(sof: int, body: bytes) -> Frame:
    """Read a frame header (B.2.2) and work out its blocks (A.1.1, A.2)."""
    height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
    sampling = [divmod(b, 16) for b in body[7::3]]
    h_max, v_max = (max(factors) for factors in zip(*sampling, strict=True))
    return Frame(
        sof=sof,
        ids=list(body[6::3]),
        sampling=sampling,
        sizes=[
            (ceil(ceil(height * v, v_max), 8), ceil(ceil(width * h, h_max), 8)) for h, v in sampling
        ],
        mcus=(ceil(height, 8 * v_max), ceil(width, 8 * h_max)),
    )


def ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def scan_of(frame: Frame, body: bytes, tables: dict, interval: int, data: bytes) -> Scan:
    """Read a scan header (B.2.3)."""
    *_, ss, se, a = body
    selectors = [divmod(b, 16) for b in body[2:-3:2]]
    return Scan(
        components=[frame.ids.index(i) for i in body[1:-3:2]],
        dc=[tables.get((0, dc)) for dc, _ in selectors],
        ac=[tables.get((1, ac)) for _, ac in selectors],
        ss=ss,
        se=se,
        ah=a >> 4,
        al=a & 15,
        interval=interval,
        data=data,
    )


# ---- order of blocks


@dataclass(frozen=True)
class Order:
    """The blocks of a scan in coded order. (n,)"""

    component: np.ndarray
    """Position in the scan header."""
    block: np.ndarray
    """Row of the component's array; beyond its edge that of the block before in the MCU."""
    is_real: np.ndarray
    """False beyond the component's edge."""
    per_mcu: int


def order_of(frame: Frame, scan: Scan) -> Order:
    """Return the order of A.2: an MCU is a block, or Hi x Vi blocks of each component in turn."""
    if len(scan.components) == 1:
        rows, columns = frame.sizes[scan.components[0]]
        n = rows * columns
        return Order(np.zeros(n, int), np.arange(n), np.ones(n, bool), 1)
    mcu_rows, mcu_columns = frame.mcus
    y, x = (a.reshape(-1, 1) for a in np.mgrid[:mcu_rows, :mcu_columns])
    parts: list[tuple[int, np.ndarray, np.ndarray]] = []
    for i, c in enumerate(scan.components):
        rows, columns = frame.sizes[c]
        h, v = frame.sampling[c]
        for row in range(v):
            for column in range(h):
                at_row, at_column = y * v + row, x * h + column
                real = (at_row < rows) & (at_column < columns)
                block = at_row * columns + at_column
                # The first block of an MCU is always real.
                block = np.where(real, block, parts[-1][1] if parts else 0)
                parts.append((i, block, real))
    component = np.array([i for i, _, _ in parts])
    return Order(
        component=np.tile(component, mcu_rows * mcu_columns),
        block=np.hstack([block for _, block, _ in parts]).ravel(),
        is_real=np.hstack([real for _, _, real in parts]).ravel(),
        per_mcu=len(parts),
    )


def intervals_of(scan: Scan, order: Order) -> list[tuple[int, int]]:
    """Return the first block and one past the last of each restart interval (E.2.4)."""
    n, step = len(order.block), scan.interval * order.per_mcu or len(order.block)
    return [(start, min(start + step, n)) for start in range(0, n, step)]


# ---- decoding (F.2, G.2)


def decode(frame: Frame, scan: Scan, coefficients: list[np.ndarray]) -> None:
    """Add what a progressive scan says to the coefficients."""
    order = order_of(frame, scan)
    intervals = intervals_of(scan, order)
    pieces = RESTART.split(scan.data)
    if len(pieces) != len(intervals):
        raise ValueError(f"{len(intervals)} restart intervals expected, got {len(pieces)}")
    for (start, stop), piece in zip(intervals, pieces, strict=True):
        windows = windows_of(piece.replace(b"\xff\x00", b"\xff"))
        if scan.ss:
            ac = coefficients[scan.components[0]][start:stop]
            (decode_ac_refinement if scan.ah else decode_ac)(windows, scan, ac)
            continue
        if scan.ah:
            values = (windows[: stop - start] >> 15) << scan.al
        else:
            values = decode_dc(windows.tolist(), scan, order.component[start:stop].tolist())
        for i, c in enumerate(scan.components):
            its = (order.component[start:stop] == i) & order.is_real[start:stop]
            coefficients[c][order.block[start:stop][its], 0] |= values[its]


def windows_of(data: bytes) -> np.ndarray:
    """Return for each bit the 16 bits from there on; ones follow the end.

    >>> [f"{w:016b}" for w in windows_of(b"\\x12\\x34")[[0, 3, 15]]]
    ['0001001000110100', '1001000110100111', '0111111111111111']
    """
    b = np.frombuffer(data + b"\xff\xff\xff", np.uint8).astype(int)
    words = b[:-2] << 16 | b[1:-1] << 8 | b[2:]
    return (words[:, None] >> np.arange(8, 0, -1) & 0xFFFF).ravel()


def look_up(table: Table) -> list[int]:
    """Return for each 16 bits the symbol that they begin with, and 256 times its code's length."""
    out = np.zeros(1 << 16, int)
    for symbol in np.flatnonzero(table.sizes).tolist():
        size = int(table.sizes[symbol])
        first = int(table.codes[symbol]) << (16 - size)
        out[first : first + (1 << (16 - size))] = size << 8 | symbol
    return out.tolist()


def decode_dc(windows: list[int], scan: Scan, component: list[int]) -> np.ndarray:
    """Return the DC coefficient of each block, by the differences of F.2.2.1 (G.2)."""
    tables = [look_up(table) for table in scan.dc]
    last, out, at = [0] * len(tables), [], 0
    for i in component:
        found = tables[i][windows[at]]
        at += found >> 8
        size = found & 0xFF
        if size:
            last[i] += extended(windows[at] >> (16 - size), size)
            at += size
        out.append(last[i])
    return np.array(out) << scan.al


def extended(bits: int, size: int) -> int:
    """EXTEND of F.2.2.1: 2 bits are -3, -2, 2, 3."""
    return bits if bits >> (size - 1) else bits - (1 << size) + 1


def decode_ac(windows: np.ndarray, scan: Scan, out: np.ndarray) -> None:
    """Set the coefficients of a first AC scan (G.1.2.2)."""
    table, windows = look_up(scan.ac[0]), windows.tolist()
    block, at, where, values = 0, 0, [], []
    while block < len(out):
        k = scan.ss
        while k <= scan.se:
            found = table[windows[at]]
            at += found >> 8
            run, size = found >> 4 & 15, found & 15
            if size:
                k += run
                where.append(block * 64 + k)
                values.append(extended(windows[at] >> (16 - size), size))
                at += size
                k += 1
            elif run == 15:
                k += 16
            else:  # EOBn: this block and others end here
                block += (1 << run) - 1 + (windows[at] >> (16 - run))
                at += run
                break
        block += 1
    out.reshape(-1)[where] = np.array(values, int) << scan.al


def decode_ac_refinement(windows: np.ndarray, scan: Scan, out: np.ndarray) -> None:
    """Refine the coefficients of an AC band by a bit (G.1.2.3).

    Each coefficient that is not 0 yet is passed over with a correction bit. Those bits are noted,
    as the first coefficient, the first bit and their number, and added at the end.
    """
    rows, columns = np.nonzero(out[:, scan.ss : scan.se + 1])
    old = rows * 64 + columns + scan.ss
    old_ks = (columns + scan.ss).tolist()
    starts = np.searchsorted(rows, np.arange(len(out) + 1)).tolist()
    table, bits = look_up(scan.ac[0]), windows.tolist()
    n, block, at, new, signs, corrections = len(out), 0, 0, [], [], []
    while block < n:
        i, stop, k = starts[block], starts[block + 1], scan.ss
        while k <= scan.se:
            found = table[bits[at]]
            at += found >> 8
            run, size = found >> 4 & 15, found & 15
            if not size and run < 15:
                block += (1 << run) - 1 + (bits[at] >> (16 - run))
                at += run
                passed = starts[min(block + 1, n)] - i
                corrections.append((i, at, passed))
                at += passed
                break
            if size:
                signs.append(bits[at] >> 15)
                at += 1
            first = i
            # To coefficient number `run` of those that are 0 so far, counted from 0.
            while i < stop and old_ks[i] - k <= run:
                run -= old_ks[i] - k
                k = old_ks[i] + 1
                i += 1
            k += run
            if k > scan.se:
                raise ValueError(f"block {block} has more zeros than coefficients")
            corrections.append((first, at, i - first))
            at += i - first
            if size:
                new.append(block * 64 + k)
            k += 1
        block += 1
    flat = out.reshape(-1)
    firsts, bit_ats, counts = np.array(corrections, int).reshape(-1, 3).T
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    corrected = old[np.repeat(firsts, counts) + within]
    bit = windows[np.repeat(bit_ats, counts) + within] >> 15
    flat[corrected] += np.sign(flat[corrected]) * (bit << scan.al)
    flat[new] = (2 * np.array(signs, int) - 1) << scan.al


# ---- encoding (F.1, G.1)


@dataclass(frozen=True)
class Codes:
    """Bits to write: a value and its number of bits each, up to 32, and the block that each is of,
    or the last of those that it is of. (n,)"""

    values: np.ndarray
    sizes: np.ndarray
    blocks: np.ndarray


def encode(frame: Frame, scan: Scan, coefficients: list[np.ndarray]) -> bytes:
    """Return the entropy-coded segment of a scan."""
    order = order_of(frame, scan)
    intervals = intervals_of(scan, order)
    blocks = np.empty((len(order.block), 64), int)
    for i, c in enumerate(scan.components):
        its = order.component == i
        blocks[its] = coefficients[c][order.block[its]]
    blocks[~order.is_real, 1:] = 0
    if frame.sof in SEQUENTIAL:
        codes = sequential_codes(scan, order, intervals, blocks)
    elif scan.ss == 0 and scan.ah:
        bits = blocks[:, 0] >> scan.al & 1
        codes = Codes(bits, np.ones_like(bits), np.arange(len(bits)))
    elif scan.ss == 0:
        codes = dc_codes(scan, order, intervals, blocks[:, 0] >> scan.al)
    else:
        magnitudes = np.abs(blocks) >> scan.al  # the point transform rounds towards 0 (A.4)
        values = np.where(blocks < 0, -magnitudes, magnitudes)
        values[:, : scan.ss] = values[:, scan.se + 1 :] = 0
        progressive = refinement_codes if scan.ah else band_codes
        codes = progressive(scan, intervals, values)
    return packed(codes, intervals)


def coded(tables: Sequence[Table], which: np.ndarray, symbols: np.ndarray) -> tuple:
    """Return the codes of symbols and their lengths, each by the table of its number."""
    codes = np.stack([table.codes for table in tables])[which, symbols]
    sizes = np.stack([table.sizes for table in tables])[which, symbols]
    if not sizes.all():
        raise ValueError(f"no code for symbol {int(symbols[sizes == 0][0]):#04x}")
    return codes, sizes


def followed(codes: tuple, values: np.ndarray, sizes: np.ndarray) -> tuple:
    """Return codes with the bits of values behind them: those of v - 1 below 0 (F.1.2.1.1)."""
    bits = np.where(values < 0, values - 1, values) & ((1 << sizes) - 1)
    return codes[0] << sizes | bits, codes[1] + sizes


def dc_codes(scan: Scan, order: Order, intervals: list, dc: np.ndarray) -> Codes:
    """Return the codes of DC differences (F.1.2.1)."""
    differences = np.empty_like(dc)
    firsts = [start for start, _ in intervals]
    for i in range(len(scan.components)):
        its = np.flatnonzero(order.component == i)
        last = np.concatenate(([0], dc[its[:-1]]))
        last[np.searchsorted(its, firsts)] = 0  # every interval has blocks of every component
        differences[its] = dc[its] - last
    sizes = BIT_LENGTH[np.abs(differences)]
    codes = followed(coded(scan.dc, order.component, sizes), differences, sizes)
    return Codes(*codes, np.arange(len(dc)))


def run_codes(tables: Sequence[Table], which: np.ndarray, ss: int, values: np.ndarray) -> tuple:
    """Return the codes of runs of zeros and the coefficients behind them (F.1.2.2).

    Returns:
        The codes, and for each its block and coefficient; for each block the last coefficient that
        is not 0, or Ss - 1.
    """
    rows, ks = np.nonzero(values)
    is_first = np.diff(rows, prepend=-1) > 0
    before = np.where(is_first, ss - 1, np.concatenate(([0], ks[:-1])) if len(ks) else ks)
    runs = ks - before - 1
    sizes = BIT_LENGTH[np.abs(values[rows, ks])]
    # A run of 37 zeros is ZRL, ZRL and a run of 5.
    repeats = runs // 16 + 1
    is_value = np.zeros(repeats.sum(), bool)
    is_value[np.cumsum(repeats) - 1] = True
    rows_of, ks_of = np.repeat(rows, repeats), np.repeat(ks, repeats)
    symbols = np.where(is_value, np.repeat(runs % 16 << 4 | sizes, repeats), ZRL)
    codes = followed(
        coded(tables, which[rows_of], symbols),
        np.where(is_value, values[rows_of, ks_of], 0),
        np.where(is_value, np.repeat(sizes, repeats), 0),
    )
    last = np.full(len(values), ss - 1)
    last[rows] = ks  # of several values for a row NumPy keeps the last
    return Codes(*codes, rows_of), ks_of, last


def merged(*parts: tuple[Codes, np.ndarray | int]) -> Codes:
    """Return codes in order of block, and within it of the number beside them."""
    keys = np.concatenate([codes.blocks * 65 + rank for codes, rank in parts])
    order = np.argsort(keys, kind="stable")
    return Codes(
        *(
            np.concatenate([getattr(codes, name) for codes, _ in parts])[order]
            for name in ("values", "sizes", "blocks")
        )
    )


def sequential_codes(scan: Scan, order: Order, intervals: list, blocks: np.ndarray) -> Codes:
    """Return DC, AC and end of each block (F.1.2)."""
    values = blocks.copy()
    values[:, 0] = 0
    ac, ks, last = run_codes(scan.ac, order.component, 1, values)
    short = np.flatnonzero(last < 63)
    eob = Codes(*coded(scan.ac, order.component[short], np.zeros_like(short)), short)
    dc = dc_codes(scan, order, intervals, blocks[:, 0])
    return merged((dc, 0), (ac, ks), (eob, 64))


def band_codes(scan: Scan, intervals: list, values: np.ndarray) -> Codes:
    """Return the codes of a first AC scan: runs of blocks that end are as long as can be."""
    which = np.zeros(len(values), int)
    codes, ks, last = run_codes(scan.ac, which, scan.ss, values)
    is_empty, is_short = (last < scan.ss).tolist(), (last < scan.se).tolist()
    ends: list[tuple[int, int]] = []  # last block of a run, and its length
    for start, stop in intervals:
        run = 0
        for b in range(start, stop):
            if run and not is_empty[b]:
                ends.append((b - 1, run))
                run = 0
            run += is_short[b]
            if run == MOST_BLOCKS_IN_RUN:
                ends.append((b, run))
                run = 0
        if run:
            ends.append((stop - 1, run))
    at, runs = np.array(ends, int).reshape(-1, 2).T
    sizes = BIT_LENGTH[runs] - 1
    eob = followed(coded(scan.ac, which[at], sizes << 4), runs & ((1 << sizes) - 1), sizes)
    return merged((codes, ks), (Codes(*eob, at), 64))


class Refinement:
    """The codes of an AC refinement, as they are written."""

    def __init__(self, table: Table) -> None:
        self.codes, self.sizes = table.codes.tolist(), table.sizes.tolist()
        self.items: list[tuple[int, int, int]] = []
        self.run = 0
        """Blocks that have ended and are not written yet."""
        self.last = 0
        """The last of them."""
        self.waiting: list[int] = []
        """Their correction bits."""

    def write(self, block: int, symbol: int, bits: int, n_bits: int, corrections: list) -> None:
        """Write a symbol, bits and correction bits, behind the run that waits."""
        self.end_run()
        self._append(block, symbol, bits, n_bits, corrections)

    def end_block(self, block: int, corrections: list[int]) -> None:
        self.run += 1
        self.last = block
        self.waiting += corrections
        if self.run == MOST_BLOCKS_IN_RUN or len(self.waiting) > MOST_WAITING_BITS:
            self.end_run()

    def end_run(self) -> None:
        if self.run:
            n = self.run.bit_length() - 1
            self._append(self.last, n << 4, self.run - (1 << n), n, self.waiting)
            self.run, self.waiting = 0, []

    def _append(self, block: int, symbol: int, bits: int, n_bits: int, corrections: list) -> None:
        if not self.sizes[symbol]:
            raise ValueError(f"no code for symbol {symbol:#04x}")
        code = self.codes[symbol] << n_bits | bits
        self.items.append((code, self.sizes[symbol] + n_bits, block))
        self.items += [(bit, 1, block) for bit in corrections]


def refinement_codes(scan: Scan, intervals: list, values: np.ndarray) -> Codes:
    """Return the codes of an AC refinement (G.1.2.3).

    Correction bits are written behind the next code that is written: that of a coefficient which is
    new, of ZRL, or of the run of blocks that end.
    """
    out = Refinement(scan.ac[0])
    rows, ks = np.nonzero(values)
    starts = np.searchsorted(rows, np.arange(len(values) + 1)).tolist()
    magnitudes = np.abs(values[rows, ks]).tolist()
    positive = (values[rows, ks] > 0).tolist()
    ks = ks.tolist()
    for start, stop in intervals:
        for b in range(start, stop):
            its = range(starts[b], starts[b + 1])
            last_new = max((i for i in its if magnitudes[i] == 1), default=-1)
            corrections: list[int] = []
            zeros, before = 0, scan.ss - 1
            for i in its:
                zeros += ks[i] - before - 1
                before = ks[i]
                while zeros > 15 and i <= last_new:
                    out.write(b, ZRL, 0, 0, corrections)
                    corrections = []
                    zeros -= 16
                if magnitudes[i] > 1:
                    corrections.append(magnitudes[i] & 1)
                else:
                    out.write(b, zeros << 4 | 1, positive[i], 1, corrections)
                    corrections = []
                    zeros = 0
            if zeros or corrections or before < scan.se:
                out.end_block(b, corrections)
        out.end_run()
    return Codes(*np.array(out.items, int).reshape(-1, 3).T)


def packed(codes: Codes, intervals: list[tuple[int, int]]) -> bytes:
    """Return bytes: each interval filled with ones (F.1.2.3), FF stuffed, RSTm between (E.1.4)."""
    edges = np.searchsorted(codes.blocks, [stop for _, stop in intervals])
    ends = np.concatenate(([0], np.cumsum(codes.sizes)))[edges]
    n_bits = np.diff(ends, prepend=0)
    fill = -n_bits % 8
    values = np.insert(codes.values, edges, (1 << fill) - 1)
    sizes = np.insert(codes.sizes, edges, fill)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    bits = np.repeat(values, sizes) >> (np.repeat(sizes, sizes) - 1 - within) & 1
    data = np.packbits(bits.astype(np.uint8)).tobytes()
    pieces, start = [], 0
    for i, stop in enumerate(accumulate(((n_bits + fill) // 8).tolist())):
        pieces.append(data[start:stop].replace(b"\xff", b"\xff\x00"))
        pieces.append(bytes((0xFF, 0xD0 + i % 8)))
        start = stop
    return b"".join(pieces[:-1])
