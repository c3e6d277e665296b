"""How a file's coefficients are coded: tables in force, and what libjpeg can write."""

import pytest
from jpeg_files import make, segment, sof, sos

from pcrstore.jpeg.coding import STANDARD_TABLES, Coding, pack_scan, read_coding
from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.parser import parse

DRI = segment(0xDD, b"\x00\x07")
DQT = segment(0xDB, bytes(65))
BASELINE = SOI + DQT + sof(((1, 0x11, 0), (2, 0x11, 0)), marker=0xC0)
TABLES = {"dc": STANDARD_TABLES[4:33], "ac": STANDARD_TABLES[37:216]}
DC, AC = (table[1:].ljust(272, b"\0") for table in TABLES.values())
"""Packed."""


def test_the_coding_of_a_sequential_file_is_its_tables_scans_and_restart_interval():
    data = BASELINE + STANDARD_TABLES + DRI + sos((2, 1)) + EOI
    assert read_coding(data, parse(data)) == Coding(
        scans=b"\x02\x01\x00\x00\x00\x00\x3f\x00\x00",
        tables=(DC, AC, DC, AC),
        dc_slots=b"\x00\x00",
        restart_interval=7,
        tables_of_scans=((DC, AC, DC, AC),),
    )
    assert read_coding(data, parse(data)).packed[1] == (DC + AC) * 2


def test_tables_count_from_where_they_stand():
    other = segment(0xC4, b"\x00" + bytes([1]) + bytes(15) + b"\x05")
    data = BASELINE + STANDARD_TABLES + sos((1,)) + b"\x01" + other + sos((2,)) + b"\x02" + EOI
    found = read_coding(data, parse(data))
    later = (b"\x01" + bytes(15) + b"\x05").ljust(272, b"\0")
    assert found.tables == (DC, AC, later, AC)
    assert found.tables_of_scans == ((DC, AC), (later, AC))


def test_a_file_without_tables_has_the_standard_ones_as_in_motion_jpeg():
    data = BASELINE + sos((1, 2)) + EOI
    assert read_coding(data, parse(data)).tables == (DC, AC, DC, AC)


def test_several_tables_in_one_segment_are_all_read():
    data = BASELINE + segment(0xC4, TABLES["dc"] + TABLES["ac"]) + sos((1, 2)) + EOI
    assert read_coding(data, parse(data)).tables == (DC, AC, DC, AC)


NOT_WRITABLE = {
    "restart-interval-changes": BASELINE + sos((1,)) + b"\x01" + DRI + sos((2,)) + b"\x02" + EOI,
    "component-never-sent": BASELINE + sos((1,)) + b"\x01" + EOI,
    "table-never-defined": BASELINE + sos((1, 2)).replace(b"\x01\x00\x02\x00", b"\x01\x33\x02\x00"),
}


@pytest.mark.parametrize("data", NOT_WRITABLE.values(), ids=NOT_WRITABLE.keys())
def test_a_coding_that_libjpeg_cannot_write_is_none(data):
    data = data if data.endswith(EOI) else data + EOI
    assert read_coding(data, parse(data)) is None


MALFORMED = {
    "counts-cut-short": segment(0xC4, b"\x00" + bytes(10)),
    "symbols-cut-short": segment(0xC4, b"\x00" + bytes([9]) + bytes(15)),
    "too-many-symbols": segment(0xC4, b"\x00" + bytes([255] * 16) + bytes(255 * 16)),
}


@pytest.mark.parametrize("dht", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_table_defines_nothing(dht):
    data = BASELINE + dht + sos((1, 2)) + EOI
    assert read_coding(data, parse(data)).tables == (DC, AC, DC, AC)  # libjpeg refuses the file


def test_the_dc_slots_are_those_of_the_scan_that_sends_dc():
    first = sos((1, 2), se=0).replace(b"\x01\x00\x02\x00", b"\x01\x10\x02\x20")
    data = BASELINE.replace(b"\xff\xc0", b"\xff\xc2") + first + b"\x01" + sos((2,), ss=1) + EOI
    found = read_coding(data, parse(data))
    assert found.dc_slots == b"\x01\x02"
    assert found.tables is None


def test_a_scan_is_packed_in_nine_bytes():
    assert pack_scan((0, 2), (1, 63, 2, 1)) == bytes([2, 0, 2, 0, 0, 1, 63, 2, 1])


def test_a_progressive_scan_uses_the_tables_of_what_it_sends():
    data = make("420", progressive=True)
    parsed = parse(data)
    found = read_coding(data, parsed)
    assert found.tables is None
    # DC of three components, AC of one, none in a refinement of DC.
    assert [len(t) for t in found.tables_of_scans] == [3, 1, 1, 1, 1, 1, 0, 1, 1, 1]
    [first] = [s for s in parsed.segments if s.marker == 0xC4][2:3]
    stored = data[first.start + 5 : first.stop]
    assert found.tables_of_scans[1] == (stored.ljust(272, b"\0"),)


def test_a_table_that_is_never_defined_is_an_empty_one():
    selector = sos((1, 2)).replace(b"\x01\x00\x02\x00", b"\x01\x00\x02\x22")
    data = BASELINE.replace(b"\xff\xc0", b"\xff\xc2") + selector + b"\x01" + EOI
    assert read_coding(data, parse(data)).tables_of_scans == ((DC, AC, b"", b""),)


def table(counts, symbols):
    """A packed table."""
    return bytes(counts).ljust(16, b"\0") + bytes(symbols).ljust(256, b"\0")


def coding(*tables):
    return Coding(
        scans=b"", tables=tables, dc_slots=b"\0", restart_interval=0, tables_of_scans=((),)
    )


WITH_CODES = {
    "standard": ((DC, AC), (DC, AC)),
    "categories": (
        (table([0, 1], [5]), AC),
        (table([0, 1, *[0] * 13, 11], [5, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]), AC),
    ),
    "eob": ((DC, table([1], [0xF0])), (DC, table([1, *[0] * 14, 1], [0xF0, 0]))),
    "just-room": (
        (DC, table([1] * 15, range(1, 16))),
        (DC, table([1] * 16, [*range(1, 16), 0])),
    ),
    "no-room": ((DC, table([1] * 16, range(1, 17))), None),
    "no-room-for-all": ((table([1] * 11 + [0] * 4 + [30], range(12, 53)), AC), None),
}


@pytest.mark.parametrize(("given", "expected"), WITH_CODES.values(), ids=WITH_CODES)
def test_symbols_that_may_be_needed_get_a_code_behind_the_others(given, expected):
    found = coding(*given).with_all_codes()
    assert (found and found.tables) == expected


def test_a_progressive_coding_has_no_tables_to_complete():
    data = make("420", progressive=True)
    found = read_coding(data, parse(data))
    assert found.with_all_codes() is found
