"""Cells become files: metadata at the head at full fidelity, an end-of-band tail below it."""

import numpy as np
import pytest
from jpeg_files import make

from pcrstore.jpeg.assemble import assemble_full, decodable
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.markers import EOI
from pcrstore.jpeg.parser import parse, parse_frame

SOI, DQT, SOF = b"\xff\xd8", b"\xff\xdb\x00\x03q", b"\xff\xc2\x00\x03f"
APP0, APP1, COM = b"\xff\xe0\x00\x04JF", b"\xff\xe1\x00\x05exi", b"\xff\xfe\x00\x03c"
SCAN = b"\xff\xda\x00\x03s\x11"
FULL = {
    # id: (cells, file without EOI)
    "one-group": ([SOI + APP0 + APP1 + DQT + SCAN], SOI + APP0 + APP1 + DQT + SCAN),
    "no-metadata": ([SOI + APP0 + DQT, SCAN], SOI + APP0 + DQT + SCAN),
    "behind-identity": (
        [SOI + APP0 + DQT, APP1 + COM + SCAN],
        SOI + APP0 + APP1 + COM + DQT + SCAN,
    ),
    "no-identity": ([SOI + DQT, COM + SCAN], SOI + COM + DQT + SCAN),
    "only-leading-ones-move": ([SOI + DQT, APP1 + SCAN + COM], SOI + APP1 + DQT + SCAN + COM),
    "last-of-three": ([SOI + DQT, SCAN, APP1 + SCAN], SOI + APP1 + DQT + SCAN + SCAN),
    "nothing-but-metadata": ([SOI + DQT, SCAN, COM], SOI + COM + DQT + SCAN),
    "empty-last": ([SOI + DQT + SCAN, b""], SOI + DQT + SCAN),
}


@pytest.mark.parametrize(("given_cells", "expected"), FULL.values(), ids=FULL)
def test_metadata_move_to_the_head(given_cells, expected):
    assert assemble_full(given_cells) == expected + b"\xff\xd9"
    assert decodable(given_cells, len(given_cells), opaque=False) == expected + EOI


def arrays(cells):
    return [np.frombuffer(c, np.uint8) for c in cells]


def test_fewer_cells_are_followed_by_the_tail_of_their_frame():
    data = make("420", progressive=True)
    edge = parse(data).scans[0].ecs_stop
    cells = [data[:edge], data[edge:-2]]
    expected = data[:edge] + end_of_band_tail(parse_frame(data)) + EOI
    assert decodable(cells[:1], 2, opaque=False) == expected
    assert decodable(arrays(cells[:1]), 2, opaque=False) == expected
    assert decodable(arrays(cells), 2, opaque=False) == data


def test_an_opaque_image_is_its_first_cell():
    assert decodable(arrays([b"GIF89a", b""]), 3, opaque=True) == b"GIF89a"


def test_cells_without_a_frame_are_left_to_the_decoder():
    assert decodable([SOI + DQT], 2, opaque=False) == SOI + DQT + EOI
