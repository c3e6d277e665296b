"""JPEG parsing: one table of files, read whole, cut at every byte and with trailing bytes."""

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_files import (
    JFIF,
    KINDS,
    SAMPLING,
    adobe,
    make,
    sample_files,
    segment,
    sof,
    sos,
    tiny,
)
from PIL import Image

from pcrstore.errors import DamagedJpegError, JpegError, LimitError, UnsupportedJpegError
from pcrstore.jpeg.exif import exif_orientation
from pcrstore.jpeg.markers import EOI, SOI, ColourModel, Component, Segment
from pcrstore.jpeg.parser import (
    frame_segment,
    identity_segments,
    metadata_segments,
    parse,
    parse_frame,
    parse_jpeg_header,
)

MODELS = {"grey": "grey", "rgb": "rgb", "cmyk": "cmyk", "ycck": "ycck"}
THREE = ((1, 0x22, 0), (2, 0x11, 1), (3, 0x11, 1))
RGB_IDS = ((82, 0x11, 0), (71, 0x11, 0), (66, 0x11, 0))
FOUR = ((1, 0x11, 0), (2, 0x11, 0), (3, 0x11, 0), (4, 0x11, 0))

# One row: name, file, and (start of scan header, start and stop of its bytes) for each scan.
WHOLE = {
    "smallest": (tiny(), [(15, 25, 27)]),
    "stuffed-ff": (tiny(scans=sos() + b"\xff\x00\x12\xff\x00"), [(15, 25, 30)]),
    "restart-markers": (tiny(scans=sos() + b"\x01\xff\xd0\x02\xff\xd7\x03"), [(15, 25, 32)]),
    "fill-before-marker": (tiny(scans=sos() + b"\x12\xff\xff\xff"), [(15, 25, 26)]),
    "fill-before-stuffed-ff": (tiny(scans=sos() + b"\x12\xff\xff\x00\x34"), [(15, 25, 30)]),
    "fill-behind-a-header-ending-in-ff": (tiny(scans=sos(a=0xFF) + b"\xff\xff"), [(15, 25, 25)]),
    "no-entropy-bytes": (tiny(scans=sos()), [(15, 25, 25)]),
    "no-bytes-only-fill": (tiny(scans=sos() + b"\xff\xff"), [(15, 25, 25)]),
    "two-scans": (
        tiny(frame=sof(marker=0xC2), scans=(sos(se=0) + b"\x01") + (sos(ss=1) + b"\x02")),
        [(15, 25, 26), (26, 36, 37)],
    ),
    "table-between-scans": (
        tiny(frame=sof(marker=0xC2), scans=sos() + b"\x01" + segment(0xC4, b"x") + sos() + b"\x02"),
        [(15, 25, 26), (31, 41, 42)],
    ),
    "fill-before-first-segment": (tiny(b"\xff\xff\xff"), [(18, 28, 30)]),
    "tem-between-segments": (tiny(b"\xff\x01"), [(17, 27, 29)]),
    "empty-comment": (tiny(segment(0xFE)), [(19, 29, 31)]),
    "marker-like-comment": (tiny(segment(0xFE, EOI + SOI + sos())), [(33, 43, 45)]),
}


@pytest.mark.parametrize(("data", "scans"), WHOLE.values(), ids=WHOLE)
def test_every_scan_is_found(data, scans):
    jpeg = parse(data)
    assert [(s.sos, s.ecs_start, s.ecs_stop) for s in jpeg.scans] == scans
    assert data[jpeg.eoi :] == EOI
    assert jpeg.n_bytes == len(data)


@pytest.mark.parametrize("data", [row[0] for row in WHOLE.values()], ids=WHOLE)
def test_every_cut_of_a_file_is_refused(data):
    for stop in range(len(data)):
        with pytest.raises(DamagedJpegError if stop >= 2 else UnsupportedJpegError):
            parse(data[:stop])


@pytest.mark.parametrize("data", [row[0] for row in WHOLE.values()], ids=WHOLE)
@pytest.mark.parametrize("trailing", [b"\x00", EOI, SOI, b"\xff", b"anything at all"])
def test_trailing_bytes_change_nothing_but_the_length(data, trailing):
    jpeg = parse(data)
    assert parse(data + trailing) == replace(jpeg, n_bytes=len(data) + len(trailing))


def test_segments_are_all_markers_in_order():
    data = tiny(b"\xff\xff" + JFIF, scans=sos() + b"\x01\xff" + segment(0xFE, b"hi"))
    jpeg = parse(data)
    assert jpeg.segments == (
        Segment(0xE0, 4, 22),
        Segment(0xC0, 22, 35),
        Segment(0xDA, 35, 45),
        Segment(0xFE, 47, 53),
    )
    assert jpeg.scans[0].ecs_stop == 46


REFUSED = {
    "empty": (b"", UnsupportedJpegError, "got no bytes"),
    "png": (b"\x89PNG\r\n\x1a\n", UnsupportedJpegError, "got 89 50"),
    "soi-not-first": (b"\x00" + tiny(), UnsupportedJpegError, "FFD8"),
    "only-soi-eoi": (SOI + EOI, DamagedJpegError, "scan expected"),
    "no-frame": (tiny(frame=b""), DamagedJpegError, "frame header expected"),
    "no-scan": (tiny(scans=b""), DamagedJpegError, "scan expected"),
    "two-frames": (tiny(sof()), DamagedJpegError, "one frame header"),
    "frame-after-scan": (tiny(scans=sos() + b"\x01" + sof()), DamagedJpegError, "one frame header"),
    "second-soi": (tiny(SOI), DamagedJpegError, "one SOI"),
    "soi-after-scan": (tiny(scans=sos() + b"\x01" + SOI), DamagedJpegError, "one SOI"),
    "garbage-between": (tiny(b"\x00"), DamagedJpegError, "marker expected at 2, got 00FF"),
    "zero-after-ff": (tiny(b"\xff\x00"), DamagedJpegError, "marker expected at 2, got FF00"),
    "reserved-marker": (tiny(segment(0xBF)), DamagedJpegError, "FFBF at 2 is reserved"),
    "length-1": (tiny(b"\xff\xfe\x00\x01"), DamagedJpegError, "got 1"),
    "length-past-end": (SOI + b"\xff\xfe\x00\x03", DamagedJpegError, "2 to 2 bytes, got 3"),
    "lossless": (tiny(frame=sof(marker=0xC3)), UnsupportedJpegError, "lossless"),
    "hierarchical": (tiny(frame=sof(marker=0xC5)), UnsupportedJpegError, "hierarchical"),
    "arithmetic": (tiny(frame=sof(marker=0xC9)), UnsupportedJpegError, "arithmetic"),
    "12-bit": (tiny(frame=sof(marker=0xC1, precision=12)), UnsupportedJpegError, "got 12"),
    "height-0": (tiny(frame=sof(height=0)), UnsupportedJpegError, "DNL"),
    "width-0": (tiny(frame=sof(width=0)), DamagedJpegError, "width"),
    "no-components": (tiny(frame=sof(())), UnsupportedJpegError, "got 0"),
    "5-components": (
        tiny(frame=sof(tuple((i, 0x11, 0) for i in range(5)))),
        UnsupportedJpegError,
        "got 5",
    ),
    "frame-too-short": (tiny(frame=sof(n_components=2)), DamagedJpegError, "wrong length"),
    "frame-too-long": (tiny(frame=sof(THREE, n_components=2)), DamagedJpegError, "wrong length"),
    "frame-5-bytes": (tiny(frame=segment(0xC0, bytes(5))), DamagedJpegError, "wrong length"),
    "h-0": (tiny(frame=sof(((1, 0x01, 0),))), DamagedJpegError, "got 0 x 1"),
    "h-5": (tiny(frame=sof(((1, 0x51, 0),))), DamagedJpegError, "got 5 x 1"),
    "v-0": (tiny(frame=sof(((1, 0x10, 0),))), DamagedJpegError, "got 1 x 0"),
    "v-5": (tiny(frame=sof(((1, 0x15, 0),))), DamagedJpegError, "got 1 x 5"),
    "table-4": (tiny(frame=sof(((1, 0x11, 4),))), DamagedJpegError, "and 4"),
    "same-id-twice": (tiny(frame=sof((FOUR[0], FOUR[0]))), DamagedJpegError, "distinct"),
    "scan-of-nothing": (tiny(scans=sos(())), DamagedJpegError, "wrong length"),
    "scan-too-short": (tiny(scans=sos(n_components=2)), DamagedJpegError, "wrong length"),
    "scan-unknown-id": (tiny(scans=sos((2,))), DamagedJpegError, "names component 2"),
    "scan-id-twice": (tiny(scans=sos((1, 1))), DamagedJpegError, "twice"),
}
ACCEPTED = {
    "length-2": tiny(segment(0xFE)),
    "length-to-end": SOI + sof() + sos() + segment(0xFE, b"x") + EOI,
    "marker-c0": tiny(frame=sof(marker=0xC0)),
    "marker-c1": tiny(frame=sof(marker=0xC1)),
    "marker-c2": tiny(frame=sof(marker=0xC2)),
    "height-1": tiny(frame=sof(height=1)),
    "width-1": tiny(frame=sof(width=1)),
    "65535-square": tiny(frame=sof(height=65535, width=65535)),
    "4-components": tiny(frame=sof(FOUR), scans=sos((1, 2, 3, 4)) + b"\x01"),
    "h-1": tiny(frame=sof(((1, 0x11, 0),))),
    "h-4-v-4": tiny(frame=sof(((1, 0x44, 3),))),
}


@pytest.mark.parametrize(("data", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_broken_rule_is_named(data, error, message):
    with pytest.raises(error, match=message):
        parse(data)


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_the_nearest_legal_file_is_read(data):
    assert parse(data).scans


@pytest.mark.parametrize("n", [159, 160, 161])
def test_scans_are_limited(n):
    data = tiny(scans=(sos() + b"\x01") * n)
    if n <= 160:
        assert len(parse(data).scans) == n
    else:
        with pytest.raises(LimitError, match="160 scans"):
            parse(data)


@pytest.mark.parametrize(("limit", "fits"), [(3, False), (4, True)])
@pytest.mark.parametrize("behind", [False, True], ids=["before-scan", "after-scan"])
def test_segments_are_limited(limit, fits, behind):
    comments = segment(0xFE) * 2
    data = tiny(scans=sos() + comments) if behind else tiny(comments)
    if fits:
        assert len(parse(data, max_segments=limit).segments) == limit
    else:
        with pytest.raises(LimitError, match="3 marker segments"):
            parse(data, max_segments=limit)


def test_parse_frame_needs_no_more_than_the_frame():
    data = tiny(JFIF)
    frame = parse(data).frame
    stop = data.index(b"\xff\xda")
    assert parse_frame(data[:stop]) == frame
    with pytest.raises(DamagedJpegError):
        parse_frame(data[: stop - 1])
    with pytest.raises(DamagedJpegError, match="FFDA"):
        parse_frame(tiny(frame=b""))
    with pytest.raises(DamagedJpegError, match="FFD9"):
        parse_frame(SOI + EOI)
    with pytest.raises(LimitError):
        parse_frame(SOI + segment(0xFE) * 3, max_segments=3)


def test_parse_jpeg_header_needs_no_more_than_the_scan_header():
    data = tiny(JFIF)
    jpeg = parse(data)
    header = parse_jpeg_header(data[: jpeg.scans[0].ecs_start])
    assert (header.frame, header.model, header.sos) == (jpeg.frame, jpeg.model, jpeg.scans[0].sos)
    with pytest.raises(DamagedJpegError):
        parse_jpeg_header(data[: jpeg.scans[0].ecs_start - 1])


COLOUR = {
    "one": (sof(), b"", ColourModel.GREY),
    "one-with-adobe": (sof(), adobe(0), ColourModel.GREY),
    "two": (sof(FOUR[:2]), b"", ColourModel.OTHER),
    "three-jfif": (sof(THREE), JFIF, ColourModel.YCBCR),
    "three-jfif-beats-adobe": (sof(THREE), JFIF + adobe(0), ColourModel.YCBCR),
    "three-adobe-0": (sof(THREE), adobe(0), ColourModel.RGB),
    "three-adobe-1": (sof(THREE), adobe(1), ColourModel.YCBCR),
    "three-adobe-2": (sof(THREE), adobe(2), ColourModel.YCBCR),
    "three-last-adobe-counts": (sof(THREE), adobe(1) + adobe(0), ColourModel.RGB),
    "three-ids-123": (sof(THREE), b"", ColourModel.YCBCR),
    "three-ids-rgb": (sof(RGB_IDS), b"", ColourModel.RGB),
    "three-ids-rgb-jfif": (sof(RGB_IDS), JFIF, ColourModel.YCBCR),
    "three-ids-other": (sof(((9, 17, 0), (8, 17, 0), (7, 17, 0))), b"", ColourModel.YCBCR),
    "short-jfif-is-none": (sof(RGB_IDS), segment(0xE0, b"JFIF\x00" + bytes(8)), ColourModel.RGB),
    "short-adobe-is-none": (sof(THREE), segment(0xEE, b"Adobe" + bytes(6)), ColourModel.YCBCR),
    "four": (sof(FOUR), b"", ColourModel.CMYK),
    "four-jfif": (sof(FOUR), JFIF, ColourModel.CMYK),
    "four-adobe-0": (sof(FOUR), adobe(0), ColourModel.CMYK),
    "four-adobe-1": (sof(FOUR), adobe(1), ColourModel.YCCK),
    "four-adobe-2": (sof(FOUR), adobe(2), ColourModel.YCCK),
}


@pytest.mark.parametrize(("frame", "before", "model"), COLOUR.values(), ids=COLOUR)
def test_the_colour_model_is_libjpegs(frame, before, model):
    first = frame[10]
    data = tiny(before, frame=frame, scans=sos((first,)) + b"\x01")
    assert parse(data).model is model
    assert parse_jpeg_header(data).model is model


def test_an_adobe_segment_behind_the_scan_header_does_not_count():
    data = tiny(frame=sof(THREE), scans=sos() + b"\x01" + adobe(0))
    jpeg = parse(data)
    assert jpeg.model is ColourModel.YCBCR
    assert identity_segments(data, jpeg) == b""
    assert metadata_segments(data, jpeg) == b""


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("kind", KINDS)
def test_pillow_agrees_about_a_real_file(kind, progressive):
    data = make(kind, progressive=progressive)
    jpeg = parse(data)
    image = Image.open(io.BytesIO(data))
    assert jpeg.model.value == MODELS.get(kind, "ycbcr")
    assert (jpeg.frame.width, jpeg.frame.height) == image.size
    assert jpeg.frame.is_progressive == progressive
    # Pillow keeps (id, h, v, table) of each component in `layer`.
    assert [(c.id, c.h, c.v, c.quant_table) for c in jpeg.frame.components] == image.layer
    n_scans = {"grey": 6, "rgb": 14, "cmyk": 18, "ycck": 18}.get(kind, 10) if progressive else 1
    assert len(jpeg.scans) == n_scans
    if kind in SAMPLING:
        assert (jpeg.frame.components[0].h, jpeg.frame.components[0].v) == SAMPLING[kind]


def test_components_are_as_written():
    frame = parse_frame(tiny(frame=sof(((7, 0x42, 3),), height=3, width=258)))
    assert frame.components == (Component(id=7, h=4, v=2, quant_table=3),)
    assert (frame.height, frame.width, frame.sof) == (3, 258, 0xC0)


@pytest.mark.parametrize(
    ("height", "width", "blocks"),
    [
        pytest.param(16, 16, [(2, 2), (1, 1), (1, 1)], id="one-unit"),
        pytest.param(17, 16, [(3, 2), (2, 1), (2, 1)], id="one-row-more"),
        pytest.param(16, 17, [(2, 3), (1, 2), (1, 2)], id="one-column-more"),
        pytest.param(1, 1, [(1, 1), (1, 1), (1, 1)], id="one-pixel"),
        pytest.param(8, 9, [(1, 2), (1, 1), (1, 1)], id="short-of-a-unit"),
    ],
)
def test_blocks_are_counted_without_padding_to_units(height, width, blocks):
    frame = parse_frame(tiny(frame=sof(THREE, height=height, width=width)))
    assert [frame.blocks(i) for i in range(3)] == blocks


EXIF = segment(0xE1, b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00")
XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x/>")
ICC = segment(0xE2, b"ICC_PROFILE\x00\x01\x01profile")
COMMENT = segment(0xFE, b"hello")
JFXX = segment(0xE0, b"JFXX\x00\x13" + bytes(12))


def test_metadata_is_every_application_segment_and_comment_verbatim():
    dqt = segment(0xDB, bytes(65))
    data = tiny(
        JFIF + EXIF + dqt + JFXX + XMP + ICC + adobe(1) + COMMENT,
        frame=sof(THREE),
        scans=sos() + b"\x01" + COMMENT,
        after=EOI + COMMENT,
    )
    jpeg = parse(data)
    assert metadata_segments(data, jpeg) == EXIF + JFXX + XMP + ICC + COMMENT + COMMENT
    assert identity_segments(data, jpeg) == JFIF + adobe(1)
    assert parse_jpeg_header(data).without_metadata(data) == JFIF + dqt + adobe(1) + sof(THREE)


def test_a_thumbnail_is_cut_off():
    body = b"JFIF\x00\x01\x02\x01\x00\x48\x00\x48\x02\x01" + bytes(6)
    data = tiny(segment(0xE0, body))
    assert identity_segments(data, parse(data)) == segment(0xE0, body[:12] + b"\x00\x00")


def test_the_last_identity_segment_of_a_kind_is_the_one():
    dense = segment(0xE0, b"JFIF\x00\x01\x02\x01\x00\x48\x00\x48\x00\x00")
    data = tiny(JFIF + adobe(1) + adobe(0) + dense)
    jpeg = parse(data)
    assert identity_segments(data, jpeg) == adobe(0) + dense
    assert metadata_segments(data, jpeg) == b""


@given(st.binary(max_size=200).map(lambda body: SOI + body) | st.binary(max_size=50))
def test_hostile_bytes_raise_nothing_but_jpeg_errors(data):
    try:
        jpeg = parse(data)
    except JpegError:
        return
    exif_orientation(data, jpeg)


@given(
    data=st.sampled_from(
        [row[0] for row in WHOLE.values()] + [make("420", 16, 16, progressive=True)]
    ),
    edits=st.lists(st.tuples(st.integers(2, 2000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_an_edited_file_parses_to_its_own_bytes_or_a_jpeg_error(data, edits):
    edited = bytearray(data)
    for at, value in edits:
        edited[at % len(data)] = value
    data = bytes(edited)
    try:
        jpeg = parse(data)
    except JpegError:
        return
    stop = 2
    for one in jpeg.segments:
        assert stop <= one.start < one.stop <= jpeg.eoi
        assert data[one.start : one.start + 2] == bytes([0xFF, one.marker])
        stop = one.stop
    for scan in jpeg.scans:
        assert data[scan.sos : scan.sos + 2] == b"\xff\xda"
        assert scan.sos < scan.ecs_start <= scan.ecs_stop <= jpeg.eoi
    assert data[jpeg.eoi : jpeg.eoi + 2] == EOI
    metadata_segments(data, jpeg)
    assert len(identity_segments(data, jpeg)) <= len(data)
    exif_orientation(data, jpeg)


HOSTILE = {
    "only-ff": tiny(scans=sos() + b"\xff" * 1_000_000),
    "stuffed": tiny(scans=sos() + b"\xff\x00" * 500_000),
    "restarts": tiny(scans=sos() + b"\xff\xd0" * 500_000),
    "fill-before-segments": tiny(b"".join(b"\xff" * 100 + segment(0xFE) for _ in range(9_000))),
    "identity-segments": tiny(JFIF * 9_000),
    "scans-with-fill": tiny(scans=(sos() + b"\xff" * 10_000) * 100),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_time_grows_with_length_only(data):
    start = time.perf_counter()
    jpeg = parse(data)
    identity_segments(data, jpeg)
    metadata_segments(data, jpeg)
    exif_orientation(data, jpeg)
    # Some 0.05 s here; a quadratic pass over a megabyte takes minutes.
    assert time.perf_counter() - start < 2


def test_real_photos_parse():
    for path in sample_files("imagenet-sample", "*.[Jj][Pp]*"):
        data = path.read_bytes()
        jpeg = parse(data)
        assert Image.open(io.BytesIO(data)).size == (jpeg.frame.width, jpeg.frame.height)


def test_odd_files_parse_or_raise_jpeg_errors():
    for path in sample_files("odd-jpegs", "*"):
        data = path.read_bytes()
        try:
            exif_orientation(data, parse(data))
        except JpegError as e:
            assert str(e)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_segment_is_the_one_that_is_parsed(kind, progressive):
    data = make(kind, progressive=progressive)
    [frame] = [s for s in parse(data).segments if s.marker in (0xC0, 0xC1, 0xC2)]
    found = frame_segment(data)
    assert found == data[frame.start : frame.stop]
    assert parse_frame(SOI + found) == parse(data).frame
    assert frame_segment(data[: frame.stop]) == found
    for stop in range(frame.start + 4):
        with pytest.raises(DamagedJpegError, match=f"within {stop} bytes"):
            frame_segment(data[:stop])


# A table whose contents look like a frame header, wherever a search for one would begin.
DECEIT = b"\xff\xc2\0\x0b\x08\0\x10\0\x10\x01\x01\x11\0"
HEADS = {
    "nothing": b"",
    "JFIF": JFIF,
    "JFIF with a thumbnail": segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\1\1" + b"\7\7\7"),
    "Adobe": adobe(1),
    "one table": segment(0xDB, bytes(65)),
    "two tables": segment(0xDB, bytes(65)) * 2,
    "two in one": segment(0xDB, bytes(130)),
    "three in one": segment(0xDB, bytes(195)),
    "16 bits": segment(0xDB, b"\x10" + bytes(128)),
    "comment": segment(0xFE, b"by nobody"),
    "Exif": JFIF + segment(0xE1, b"Exif\0\0" + bytes(500)) + segment(0xDB, bytes(65)),
    "restart interval": segment(0xDD, b"\0\4"),
    "deceit in a table": segment(0xDB, (DECEIT * 5 + bytes(65))[:65]),
    "deceit in Exif": segment(0xE1, DECEIT * 3),
    "deceit in JFIF": segment(0xE0, b"JFIF" + (DECEIT * 2)[:10]),
}


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("head", HEADS)
def test_the_frame_segment_is_found_behind_any_head(head, n):
    frame = sof(tuple((i, 0x11, 0) for i in range(1, n + 1)), marker=0xC2)
    data = tiny(HEADS[head], frame=frame)
    assert frame_segment(data) == frame
    assert frame_segment(np.frombuffer(data, np.uint8)) == frame
