"""The shape of a JPEG: read without the parser, and never against it; first rows to the bit."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_files import (
    KINDS,
    jpegtran,
    make,
    needs_jpegtran,
    sample_files,
    sampled,
    segment,
    sof,
    sos,
    tiny,
    with_scans,
)
from PIL import Image

from pcrstore.errors import JpegError, LimitError
from pcrstore.image.decoder import SCALES, decode, decode_jpeg
from pcrstore.jpeg import probe
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.markers import EOI, MAX_PIXELS, is_frame_header
from pcrstore.jpeg.parser import parse, parse_jpeg_header
from pcrstore.jpeg.probe import first_rows, jpeg_shape, readable_header
from pcrstore.jpeg.scan_script import BUILTIN, ScanSpec


def walked(data):
    """What the walk over segments finds, after checking it against the parser."""
    found = probe._walked(data)
    if found is not None:
        header = parse_jpeg_header(data)
        frame = header.frame
        [at] = [s.start for s in header.segments if is_frame_header(s.marker)]
        assert found == (frame.width, frame.height, len(frame.components), at, header.sos)
    return found


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("kind", KINDS)
def test_usual_headers_need_no_parser(kind, progressive):
    data = make(kind, progressive=progressive)
    assert walked(data)
    start = parse_jpeg_header(data).sos
    assert probe._walked(data[: start + 2])[-1] == start
    for stop in range(start + 2):
        assert walked(data[:stop]) is None


DRI, COMMENT = segment(0xDD, b"\x00\x04"), segment(0xFE, b"")
FOUR = tuple((i, 0x11, 0) for i in range(4))
HEADERS = {
    "plain": (tiny(), True),
    "restart-interval": (tiny(DRI), True),
    "empty-comment": (tiny(COMMENT), True),
    "extended": (tiny(frame=sof(marker=0xC1)), True),
    "four-components": (tiny(frame=sof(FOUR)), True),
    "two-components": (tiny(frame=sof(FOUR[:2])), False),
    "five-components": (tiny(frame=sof((*FOUR, (5, 0x11, 0)))), False),
    "components-miscounted": (tiny(frame=sof(n_components=3)), False),
    "no-components": (tiny(frame=sof((), n_components=0)), False),
    "12-bits": (tiny(frame=sof(precision=12)), False),
    "no-width": (tiny(frame=sof(width=0)), False),
    "no-height": (tiny(frame=sof(height=0)), False),
    "arithmetic": (tiny(frame=sof(marker=0xC9)), False),
    "two-frames": (tiny(frame=sof() * 2), False),
    "no-frame": (tiny(frame=b""), False),
    "reserved-marker": (tiny(segment(0x02, b"")), False),
    "length-of-0": (tiny(b"\xff\xfe\x00\x00"), False),
    "length-of-1": (tiny(b"\xff\xfe\x00\x01"), False),
    "fill-bytes": (tiny(b"\xff" + COMMENT), False),
    "garbage": (tiny(b"\x00"), False),
    "no-marker": (tiny(b"\x00" + COMMENT[1:]), False),
    "99-segments": (tiny(COMMENT * 98), True),
    "100-segments": (tiny(COMMENT * 99), False),
    "not-a-jpeg": (b"\x89PNG" + tiny(), False),
}


@pytest.mark.parametrize(("data", "usual"), HEADERS.values(), ids=HEADERS)
def test_unusual_headers_go_to_the_parser(data, usual):
    assert (walked(data) is not None) is usual


@given(st.sampled_from(KINDS[:4]), st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255))))
def test_the_walk_never_contradicts_the_parser(kind, edits):
    data = bytearray(make(kind, 16, 16, progressive=True))
    for at, value in edits:
        data[at % len(data)] = value
    try:
        walked(bytes(data))
    except JpegError:  # the parser asks more: sampling factors, tables, distinct components
        assert readable_header(bytes(data)) is None


@pytest.mark.parametrize("unusual", [b"\xff", b"\xff\xff\xff"], ids=["fill", "more-fill"])
def test_the_parser_finds_the_same_shape(unusual):
    data = make("420")
    at = parse_jpeg_header(data).segments[-1].start
    usual, found = shape_of(data), shape_of(data[:at] + unusual + data[at:])
    assert found._replace(frame=usual.frame) == usual
    [before] = [s.start for s in parse_jpeg_header(data).segments if is_frame_header(s.marker)]
    assert found.frame - before in (0, len(unusual))
    edited = data[:before] + unusual + data[before:]
    assert shape_of(edited).frame == before + len(unusual)


def test_pixels_are_limited():
    assert jpeg_shape(make("420"), 75 * 101)
    with pytest.raises(LimitError, match="7574 pixels are decoded, got 101 x 75"):
        jpeg_shape(make("420"), 75 * 101 - 1)


@pytest.mark.parametrize("one", [sos() + b"\x12\x34", sos(), b"\xff\xda"], ids=len)
@pytest.mark.parametrize("n", [170, 171])
def test_scans_are_limited_however_they_lie(n, one):
    data = tiny(scans=one * n)
    if n == 170:
        assert shape_of(data)
    else:
        with pytest.raises(LimitError, match="170 scans"):
            shape_of(data)


# ---- whether every bit is there


def shape_of(data):
    return jpeg_shape(data, MAX_PIXELS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_complete(kind):
    assert shape_of(make(kind)).is_complete
    assert shape_of(make(kind, progressive=True)).is_complete


@needs_jpegtran
@pytest.mark.parametrize("script", BUILTIN)
@pytest.mark.parametrize("kind", ["grey", "420", "cmyk"])
def test_a_prefix_is_complete_by_its_tail(kind, script, tmp_path):
    source = make(kind)
    jpeg = parse(source)
    data = with_scans(source, BUILTIN[script].expand(jpeg.frame, jpeg.model), tmp_path)
    written = parse(data)
    *some, last = written.scans
    tail = end_of_band_tail(written.frame)
    for one in some:
        prefix = data[: one.ecs_stop]
        # A last scan that brings DC bits only leaves nothing open.
        open_bits = any(s.ss for s in written.scans if s.sos > one.sos)
        assert shape_of(prefix + EOI).is_complete is not open_bits
        assert shape_of(prefix + tail + EOI).is_complete
    assert shape_of(data[: last.ecs_stop] + EOI).is_complete


def ac(component, ss, se, al, ah=0):
    return sos((component,), ss=ss, se=se, a=ah << 4 | al) + b"\x12\x34"


DC = sos((1, 2, 3), se=0) + b"\x12\x34"
TAIL = b"".join(ac(c, 1, 63, 0) for c in (1, 2, 3))
BANDS = ((1, 5), (6, 40), (41, 63))
SCANS = {
    "all": (DC + TAIL, True),
    "in-bands": (DC + b"".join(ac(c, *band, 0) for c in (3, 1, 2) for band in BANDS), True),
    "refined": (
        DC + b"".join(ac(c, 1, 63, 1) + ac(c, 1, 63, 0, ah=1) for c in (1, 2, 3)),
        True,
    ),
    "no-ac": (DC, False),
    "two-components": (DC + ac(1, 1, 63, 0) + ac(2, 1, 63, 0), False),
    "from-2": (DC + TAIL[:-14] + ac(3, 2, 63, 0), False),
    "to-62": (DC + TAIL[:-14] + ac(3, 1, 62, 0), False),
    "a-bit-less": (DC + TAIL[:-14] + ac(3, 1, 63, 1), False),
    "worse-again": (DC + TAIL + ac(2, 4, 4, 2), False),
    "another-component": (DC + TAIL[:-14] + ac(4, 1, 63, 0), False),
    "behind-eoi": (DC + EOI + TAIL, False),
    "cut-in-a-header": (DC + TAIL + b"\xff\xda\x00\x08", True),
    "interleaved": (DC + sos((1, 2, 3), ss=1) + b"\x12\x34", False),
}


@pytest.mark.parametrize(("scans", "complete"), SCANS.values(), ids=SCANS)
def test_every_coefficient_of_every_component_counts(scans, complete):
    colour = ((1, 0x22, 0), (2, 0x11, 0), (3, 0x11, 0))
    assert len(ac(3, 1, 63, 0)) * 3 == len(TAIL)
    data = tiny(frame=sof(colour, marker=0xC2), scans=scans)
    assert shape_of(data).is_complete is complete
    assert shape_of(tiny(frame=sof(colour), scans=scans)).is_complete  # sequential: never smoothed


def test_components_of_one_id_are_not_complete():
    # A decoder gives every scan of that id to the first of them.
    twins = ((1, 0x22, 0), (2, 0x11, 0), (2, 0x11, 0))
    data = tiny(frame=sof(twins, marker=0xC2), scans=DC + TAIL)
    found = probe._walked(data)
    assert found
    assert not shape_of(data).is_complete


# ---- first rows


def check_first_rows(data, rows, *, scales=SCALES):
    """Compare the first rows with those of the whole image; return the height that is left."""
    shape = shape_of(data)
    for scale in scales:
        cut, left = first_rows(data, shape, rows, scale)
        assert left.height >= min(rows, shape.height)
        assert left == shape_of(cut)
        n = -(-rows // scale)
        for engine in ("simplejpeg", "pillow"):
            pixels = decode_jpeg(cut, left, scale, by_simplejpeg=engine == "simplejpeg")
            assert pixels.shape[:2] == (-(-left.height // scale), -(-shape.width // scale))
            whole = decode(data, scale=scale, decoder=engine)
            np.testing.assert_array_equal(pixels[:n], whole[:n])
    return first_rows(data, shape, rows, 1)[1].height


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("kind", KINDS)
def test_first_rows_are_those_of_the_image(kind, progressive):
    data = make(kind, progressive=progressive)
    heights = [check_first_rows(data, rows) for rows in (1, 13, 14, 15, 30, 31, 62, 63, 75)]
    # Two rows more than are wanted, to the end of an MCU; all where that is over the 75 there are.
    assert heights == [16, 16, 16, 32, 32, 48, 64, 75, 75]


@pytest.mark.parametrize(("height", "rows"), [(16, 14), (16, 15), (16, 16), (17, 15), (17, 99)])
def test_an_image_that_is_no_higher_is_not_copied(height, rows):
    data = make("grey", height, 20)
    shape = shape_of(data)
    cut, left = first_rows(data, shape, rows, 1)
    assert cut is data
    assert left is shape


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("sampling", [(1, 4), (2, 4), (4, 2), (1, 3), (2, 3), (3, 1)], ids=str)
def test_whatever_the_sampling(sampling, progressive):
    data = sampled(*sampling, progressive=progressive)
    for rows in (1, 14, 15, 30, 46):
        check_first_rows(data, rows)


@needs_jpegtran
@pytest.mark.parametrize("restart", ["1", "1B", "7B"])
@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
def test_whatever_the_restart_interval(restart, progressive):
    data = jpegtran(make("420"), "-restart", restart, *(["-progressive"] if progressive else []))
    assert parse(data).segments != parse(make("420")).segments
    assert check_first_rows(data, 14) == 16


@needs_jpegtran
def test_sequential_scans_need_not_be_interleaved(tmp_path):
    specs = tuple(ScanSpec(components=(i,), ss=0, se=63, ah=0, al=0, group=1) for i in range(3))
    data = with_scans(make("420"), specs, tmp_path)
    assert len(parse(data).scans) == 3
    assert check_first_rows(data, 14) == 16


@needs_jpegtran
@pytest.mark.parametrize("script", BUILTIN)
def test_first_rows_of_every_prefix(script, tmp_path):
    source = make("420", 120, 90)
    jpeg = parse(source)
    data = with_scans(source, BUILTIN[script].expand(jpeg.frame, jpeg.model), tmp_path)
    written = parse(data)
    for one in written.scans:
        tail = end_of_band_tail(written.frame)
        assert check_first_rows(data[: one.ecs_stop] + tail + EOI, 50) == 64


@needs_jpegtran
def test_what_is_smoothed_stays_whole(tmp_path):
    source = make("420", 120, 90)
    jpeg = parse(source)
    data = with_scans(source, BUILTIN["sa5"].expand(jpeg.frame, jpeg.model), tmp_path)
    prefix = data[: parse(data).scans[0].ecs_stop] + EOI
    shape = shape_of(prefix)
    assert first_rows(prefix, shape, 1, 1) == (prefix, shape)
    # And with reason: rows below are seen in it.
    cut, left = first_rows(prefix, shape._replace(is_complete=True), 62, 1)
    assert left.height == 64
    pixels = decode_jpeg(cut, left, 1, by_simplejpeg=True)
    assert (pixels[:62] != decode(prefix)[:62]).any()


@settings(max_examples=80)
@given(
    st.sampled_from(["grey", "420", "444", "rgb", "cmyk"]),
    st.tuples(st.integers(1, 80), st.integers(1, 40)),
    st.integers(1, 90),
    st.sampled_from(SCALES),
    st.booleans(),
)
def test_any_rows_of_any_size(kind, size, rows, scale, progressive):
    data = make(kind, *size, progressive=progressive)
    check_first_rows(data, rows, scales=[scale])


def test_a_fine_pattern_shows_any_row_that_is_off():
    rows = np.random.default_rng(0).integers(0, 256, (96, 1, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.repeat(rows, 40, 1)).save(out, "JPEG", subsampling="4:2:0", quality=100)
    for n in range(1, 97):
        check_first_rows(out.getvalue(), n, scales=[1, 2])


def test_first_rows_of_real_photos():
    rng = np.random.default_rng(1)
    for path in sample_files("imagenet-sample", "*.[Jj][Pp]*", 40):
        data = path.read_bytes()
        check_first_rows(data, int(rng.integers(1, shape_of(data).height)))


def test_first_rows_of_odd_files():
    checked = 0
    for path in sample_files("odd-jpegs", "*"):
        data = path.read_bytes()
        try:
            shape = jpeg_shape(data, 10**7)
            whole = decode(data, max_pixels=10**7)
        except JpegError:
            continue
        if shape is None:
            continue
        n = shape.height // 2
        cut, left = first_rows(data, shape, n, 1)
        pixels = decode_jpeg(cut, left, 1, by_simplejpeg=True)
        np.testing.assert_array_equal(pixels[:n], whole[:n], err_msg=path.name)
        checked += left.height < shape.height
    assert checked > 10
