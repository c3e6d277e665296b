"""The walk over segments ends where the first other marker starts, or at the end of the bytes."""

import pytest
from jpeg_files import JFIF, segment

from pcrstore.jpeg.markers import APPN_AND_COM, DQT, HUFFMAN_FRAMES, SOI, end_of_segments

COMMENT = segment(0xFE, b"c")
TABLE = segment(DQT, bytes(65))
WALKS = {
    # id: (bytes, first offset, markers, end)
    "nothing": (b"", 0, APPN_AND_COM, 0),
    "other-marker": (TABLE + COMMENT, 0, APPN_AND_COM, 0),
    "one": (COMMENT + TABLE, 0, APPN_AND_COM, 5),
    "two": (COMMENT * 2 + TABLE, 0, APPN_AND_COM, 10),
    "behind-soi": (SOI + JFIF + TABLE, 2, APPN_AND_COM, 2 + len(JFIF)),
    "to-the-end": (COMMENT, 0, APPN_AND_COM, 5),
    "no-length": (COMMENT[:3], 0, APPN_AND_COM, 0),
    "cut": (COMMENT[:4], 0, APPN_AND_COM, 4),
    "no-marker": (b"\x00" + COMMENT, 0, APPN_AND_COM, 0),
    "app0-and-app15": (segment(0xE0) + segment(0xEF) + segment(0xF0), 0, APPN_AND_COM, 8),
    "frames": (segment(0xC2) + segment(0xC3), 0, HUFFMAN_FRAMES, 4),
}


@pytest.mark.parametrize(("data", "at", "markers", "end"), WALKS.values(), ids=WALKS)
def test_segments_end_at_the_first_other_marker(data, at, markers, end):
    assert end_of_segments(data, at, markers) == end
