"""The restore blob: cutting, weaving, packing, and every way a forged blob can lie."""

import contextlib
import io
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_files import JFIF, make, segment, sof, sos, tiny
from PIL import Image

from pcrstore.errors import FormatError, LimitError, UnsupportedFormatError
from pcrstore.jpeg.coding import STANDARD_TABLES
from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.restore import (
    Kind,
    RestoreBlob,
    join_ecs,
    pack_blob,
    split_ecs,
    unpack_blob,
)

EXIF = segment(0xE1, b"Exif\x00\x00" + bytes(range(256)) * 20)
ICC = segment(0xE2, b"ICC_PROFILE\x00\x01\x01" + bytes(3000))
COM = segment(0xFE, b"a comment")
DRI = segment(0xDD, b"\x00\x07")
DQT = segment(0xDB, bytes(65))

# Groups of an image whose last group has the metadata.
GROUPS = (
    SOI + JFIF + DQT + sof(marker=0xC2) + sos(se=0) + b"\x12",
    EXIF + ICC + COM + sos(ss=1) + b"\x34",
)
SKELETON = SOI + JFIF + EXIF + ICC + COM + DQT + sof() + STANDARD_TABLES + sos() + EOI

SKELETONS = {
    "metadata-in-one-run": SKELETON,
    "metadata-apart": SOI + EXIF + DQT + ICC + sof() + COM + sos() + EOI + b"trailing",
    "metadata-partly-there": SOI + EXIF + COM + sof() + sos() + EOI,
    "metadata-behind-the-scan": SOI + EXIF + sof() + sos() + ICC + COM + EOI,
    "metadata-reordered": SOI + COM + ICC + EXIF + sof() + sos() + EOI,
    "metadata-repeated": SOI + EXIF + EXIF + sof() + sos() + EOI,
    "no-metadata": SOI + DQT + sof() + sos() + EOI,
    "fill-between": SOI + b"\xff\xff" + EXIF + b"\xff" + ICC + b"\xff" + sof() + sos() + EOI,
    "one-segment": SOI + sof() + sos() + EOI,
}


def stored(kind=Kind.RECODED, skeleton=SKELETON, segments=()):
    return RestoreBlob(kind=kind, checksum=0x01020304, skeleton=skeleton, segments=segments)


def read(blob, groups=GROUPS, max_bytes=1 << 20):
    return unpack_blob(blob, groups, max_bytes=max_bytes)


def test_the_standard_tables_are_those_that_libjpeg_writes():
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    parsed = parse(out.getvalue())
    tables = [s for s in parsed.segments if s.marker == 0xC4]
    assert b"".join(out.getvalue()[s.start : s.stop] for s in tables) == STANDARD_TABLES


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(make("420"), id="baseline"),
        pytest.param(make("420", progressive=True), id="progressive"),
        pytest.param(make("cmyk") + b"\xff\xda trailing \xff\xd9", id="trailing"),
        pytest.param(tiny(scans=sos() + b"\x01\xff\xd0\x02" + sos()), id="empty-segment"),
        pytest.param(tiny(scans=sos() + b"\x01\xff\xff\xff"), id="fill-behind-segment"),
        pytest.param(tiny(scans=sos() + b"\xff\xff"), id="only-fill-behind-scan-header"),
    ],
)
def test_a_cut_file_weaves_back(data):
    parsed = parse(data)
    skeleton, segments = split_ecs(data, parsed)
    assert join_ecs(skeleton, segments) == data
    assert len(skeleton) + sum(map(len, segments)) == len(data)
    assert len(segments) == len(parsed.scans)


@pytest.mark.parametrize("segments", [[], [b"\x01", b"\x02"]], ids=["too-few", "too-many"])
def test_weave_refuses_another_number_of_segments(segments):
    with pytest.raises((FormatError, LimitError)):
        join_ecs(SKELETON, segments)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS.keys())
@pytest.mark.parametrize("kind", [Kind.RECODED, Kind.WHOLE])
def test_what_is_packed_unpacks(kind, skeleton):
    blob = pack_blob(stored(kind, skeleton), GROUPS)
    assert read(blob) == stored(kind, skeleton)
    assert blob[0] & 0x0F == kind


def test_a_whole_file_need_not_be_a_jpeg():
    png = b"\x89PNG\r\n\x1a\n" + bytes(500)
    blob = pack_blob(stored(Kind.WHOLE, png), GROUPS)
    assert read(blob) == stored(Kind.WHOLE, png)
    assert len(blob) < 50


@pytest.mark.parametrize("segments", [(), (b"",), (b"\x12\xff\x00", b"", b"\x34" * 999)])
def test_entropy_coded_segments_are_kept_as_they_are(segments):
    given_ = stored(Kind.STORED, segments=segments)
    blob = pack_blob(given_, GROUPS)
    assert read(blob) == given_
    assert blob.endswith(b"".join(segments))


def test_what_the_groups_have_is_not_kept_again():
    assert len(EXIF + ICC + COM) > 8000
    assert len(pack_blob(stored(), GROUPS)) < 50


def test_metadata_longer_than_the_window_of_deflate_is_not_kept_again():
    noise = zlib.compress(bytes(range(256)) * 4, 0)
    metadata = b"".join(segment(0xE2, bytes([i]) + noise * 40) for i in range(3))
    assert len(metadata) > 3 * 32768
    groups = (GROUPS[0], metadata + sos(ss=1) + b"\x34")
    skeleton = SOI + JFIF + metadata + DQT + sof() + sos() + EOI
    blob = pack_blob(stored(skeleton=skeleton), groups)
    assert read(blob, groups) == stored(skeleton=skeleton)
    assert len(blob) < 60


def test_a_single_group_needs_no_metadata_at_its_front():
    groups = (SOI + JFIF + EXIF + DQT + sof(marker=0xC2) + sos(se=0) + b"\x12",)
    blob = pack_blob(stored(), groups)
    assert read(blob, groups) == stored()


def test_more_runs_than_a_byte_counts_are_kept():
    # A run ends where a segment stands that is no metadata: 300 of them.
    comments = [segment(0xFE, i.to_bytes(2)) for i in range(300)]
    skeleton = SOI + b"".join(c + DRI for c in comments) + sof() + sos() + EOI
    groups = (GROUPS[0], b"".join(comments) + sos(ss=1))
    blob = pack_blob(stored(skeleton=skeleton), groups)
    assert read(blob, groups) == stored(skeleton=skeleton)


@pytest.mark.parametrize(
    ("blob", "error"),
    [
        pytest.param(b"", FormatError, id="empty"),
        pytest.param(b"\x01\x00\x00\x00", FormatError, id="start-cut-short"),
        pytest.param(b"\x01\x00\x00\x00\x00", FormatError, id="no-head"),
        pytest.param(b"\x81\x00\x00\x00\x00\xff\xff\xff", FormatError, id="not-deflate"),
        pytest.param(b"\x02\x00\x00\x00\x00\x01", FormatError, id="length-cut-short"),
        pytest.param(
            b"\x02\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff", FormatError, id="4e9-segments"
        ),
        pytest.param(
            b"\x02\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00", FormatError, id="long-head"
        ),
        pytest.param(b"\x01\x00\x00\x00\x00\x02" + bytes(8), FormatError, id="runs-cut-short"),
        pytest.param(
            b"\x01\x00\x00\x00\x00\x01" + b"\x05\x00\x00\x00" + b"\x01\x00\x00\x00" + b"head",
            FormatError,
            id="run-behind-the-head",
        ),
        pytest.param(
            b"\x01\x00\x00\x00\x00\x01" + b"\x04\x00\x00\x00" + b"\xff\xff\xff\xff" + b"head",
            FormatError,
            id="run-longer-than-metadata",
        ),
        pytest.param(
            b"\x01\x00\x00\x00\x00\x02" + b"\x02\x00\x00\x00\x01\x00\x00\x00" + bytes(8) + b"head",
            FormatError,
            id="runs-out-of-order",
        ),
    ],
)
def test_a_forged_blob_is_refused(blob, error):
    with pytest.raises(error):
        read(blob)


@pytest.mark.parametrize("first", [0x03, 0x0F, 0x11, 0x21, 0x41, 0x83, 0xC0])
def test_an_unknown_kind_or_flag_asks_for_a_newer_release(first):
    with pytest.raises(UnsupportedFormatError, match=f"got {first:#04x}: upgrade pcrstore"):
        read(bytes([first]) + bytes(9))


def test_every_truncation_of_a_blob_is_refused_or_read_as_something_else():
    for kind, segments in ((Kind.RECODED, ()), (Kind.STORED, (b"\x12", b"\x34"))):
        whole = stored(kind, segments=segments)
        blob = pack_blob(whole, GROUPS)
        for stop in range(len(blob)):
            with pytest.raises(FormatError):
                read(blob[:stop])


def test_bytes_behind_a_blob_are_refused():
    for kind, segments in ((Kind.RECODED, ()), (Kind.STORED, (b"\x12",))):
        with pytest.raises(FormatError):
            read(pack_blob(stored(kind, segments=segments), GROUPS) + b"\x00")


def test_a_head_is_bounded_before_memory_is_taken():
    blob = pack_blob(stored(skeleton=SOI + bytes(100_000)), (GROUPS[0], b""))
    assert len(blob) < 300
    assert len(read(blob, max_bytes=100_003).skeleton) == 100_002  # the head counts its runs too
    with pytest.raises(LimitError):
        read(blob, max_bytes=100_002)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_a_typed_error(blob):
    with contextlib.suppress(FormatError, LimitError):
        read(blob, max_bytes=1 << 12)


def test_stored_values_compare_by_content():
    assert stored() == replace(stored(), checksum=0x01020304)
    assert stored() != replace(stored(), checksum=0)
