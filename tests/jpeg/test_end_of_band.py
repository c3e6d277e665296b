"""The end-of-band tail: what decoders make of a prefix with it, against two oracles."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from jpeg_files import KINDS, jpegtran, make, needs_jpegtran, sof, with_scans
from PIL import Image

from pcrstore.jpeg.end_of_band import end_of_band_tail, ending
from pcrstore.jpeg.markers import EOI, SOI, Component, Frame
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.scan_script import BUILTIN


def frame_of(height, width, *sampling):
    """A frame of components of (h, v)."""
    return Frame(
        sof=0xC2,
        height=height,
        width=width,
        components=tuple(
            Component(id=i + 1, h=h, v=v, quant_table=0) for i, (h, v) in enumerate(sampling)
        ),
    )


def scanned(script, kind, folder):
    """A file of `kind` in the scans of a built-in script, and where each group stops in it."""
    source = make(kind)
    jpeg = parse(source)
    specs = BUILTIN[script].expand(jpeg.frame, jpeg.model)
    data = with_scans(source, specs, folder)
    scans = parse(data).scans
    last = {spec.group: scan.ecs_stop for spec, scan in zip(specs, scans, strict=True)}
    return data, list(last.values())


def by_pillow(data):
    """Pixels as the file's own mode has them."""
    image = Image.open(io.BytesIO(data))
    pixels = np.asarray(image)
    return 255 - pixels if image.mode == "CMYK" else pixels


def by_simplejpeg(data, kind):
    """Pixels as the file's own mode has them."""
    colours = {"grey": "GRAY", "cmyk": "CMYK", "ycck": "CMYK"}.get(kind, "RGB")
    return simplejpeg.decode_jpeg(data, colours, strict=False).squeeze()


@needs_jpegtran
@pytest.mark.parametrize("script", BUILTIN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_decodes_to_the_coefficients_it_holds(kind, script, tmp_path):
    data, stops = scanned(script, kind, tmp_path)
    tail = end_of_band_tail(parse(data).frame)
    for stop in stops:
        prefix = data[:stop] + tail + EOI
        # jpegtran reads coefficients, so it never smooths; a sequential file never is smoothed.
        expected = by_pillow(jpegtran(data[:stop] + EOI, "-copy", "none"))
        np.testing.assert_array_equal(by_pillow(prefix), expected)
        np.testing.assert_array_equal(by_simplejpeg(prefix, kind), expected)


@needs_jpegtran
@pytest.mark.parametrize("kind", KINDS)
def test_a_spectral_prefix_is_the_file_with_the_other_coefficients_quantised_away(kind, tmp_path):
    data, stops = scanned("spec5", kind, tmp_path)
    jpeg = parse(data)
    tail = end_of_band_tail(jpeg.frame)
    for stop, n_kept in zip(stops, (1, 6, 15, 28, 64), strict=True):
        cut = bytearray(data)
        for one in jpeg.segments:
            if one.marker == 0xDB:
                for table in range(one.start + 4, one.stop, 65):
                    cut[table + 1 + n_kept : table + 65] = bytes(64 - n_kept)
        np.testing.assert_array_equal(
            by_pillow(data[:stop] + tail + EOI), by_pillow(bytes(cut)), f"{n_kept} coefficients"
        )


def test_without_the_tail_libjpeg_smooths():
    data = make("420", progressive=True)
    jpeg = parse(data)
    prefix = data[: jpeg.scans[0].ecs_stop]
    smoothed = by_pillow(prefix + EOI)
    assert (by_pillow(prefix + end_of_band_tail(jpeg.frame) + EOI) != smoothed).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_of_the_whole_file_changes_nothing(kind):
    data = make(kind, progressive=True)
    jpeg = parse(data)
    with_tail = data[: jpeg.eoi] + end_of_band_tail(jpeg.frame) + EOI
    np.testing.assert_array_equal(by_pillow(with_tail), by_pillow(data))
    np.testing.assert_array_equal(by_simplejpeg(with_tail, kind), by_pillow(data))


@needs_jpegtran
def test_a_restart_interval_does_not_reach_the_tail():
    data = make("420", progressive=True)
    jpeg = parse(data)
    # Set behind the scan, so that only the tail could obey it; jpegtran would warn and fail.
    prefix = data[: jpeg.scans[0].ecs_stop] + b"\xff\xdd\x00\x04\x00\x01"
    assert jpegtran(prefix + end_of_band_tail(jpeg.frame) + EOI)


def read_back(frame):
    """The plainest reading of a tail: its scans, and how many blocks the runs of each add up to."""
    components = [(c.id, c.h << 4 | c.v, 0) for c in frame.components]
    header = SOI + sof(components, marker=0xC2, height=frame.height, width=frame.width)
    data = header + end_of_band_tail(frame) + EOI
    jpeg = parse(data)
    (table,) = [data[s.start + 4 : s.stop] for s in jpeg.segments if s.marker == 0xC4]
    counts, symbols = table[1:17], list(table[17:])
    assert table[0] == 0x10
    assert len(symbols) == sum(counts)
    codes, code = {}, 0
    for length, count in enumerate(counts, start=1):
        for _ in range(count):
            codes[format(code, f"0{length}b")] = symbols[len(codes)]
            code += 1
        code <<= 1
    assert not any(set(word) == {"1"} for word in codes)
    return [_blocks(data[s.ecs_start : s.ecs_stop], codes) for s in jpeg.scans], jpeg.scans


def _blocks(ecs, codes):
    bits = "".join(format(byte, "08b") for byte in ecs.replace(b"\xff\x00", b"\xff"))
    total, at, word = 0, 0, ""
    while at < len(bits):
        word += bits[at]
        at += 1
        if word in codes:
            n, rest = divmod(codes[word], 16)
            assert rest == 0
            assert n <= 14  # 15 is ZRL, not a run of bands
            total += (1 << n) + int("0" + bits[at : at + n], 2)
            at, word = at + n, ""
    assert len(word) < 8
    assert set(word) <= {"1"}
    return total


SIZES = {
    "one-block": (8, 8, 1),
    "two-blocks": (8, 9, 2),
    "longest-run": (8 * 151, 8 * 217, 32767),
    "longest-run-and-1": (8 * 128, 8 * 256, 32768),
    "twice-longest": (8 * 62, 8 * 1057, 65534),
    "largest-frame": (65535, 65535, 8192 * 8192),
}


@pytest.mark.parametrize(("height", "width", "n_blocks"), SIZES.values(), ids=SIZES)
def test_runs_cover_every_block(height, width, n_blocks):
    frame = frame_of(height, width, (1, 1))
    totals, _ = read_back(frame)
    assert totals == [n_blocks]


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    sampling=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
)
def test_each_component_has_one_scan_of_all_its_blocks(height, width, sampling):
    frame = frame_of(height, width, *sampling)
    totals, scans = read_back(frame)
    h_max, v_max = max(h for h, _ in sampling), max(v for _, v in sampling)
    # A component has ceil(side * its factor / the largest) samples (A.1.1), 8 to a block.
    expected = [
        len(range(0, -(-height * v // v_max), 8)) * len(range(0, -(-width * h // h_max), 8))
        for h, v in sampling
    ]
    assert totals == expected
    assert [(s.components, s.ss, s.se, s.ah, s.al) for s in scans] == [
        ((i,), 1, 63, 0, 0) for i in range(len(sampling))
    ]


def test_a_photo_in_colour_costs_about_a_hundred_bytes():
    tail = end_of_band_tail(frame_of(375, 500, (2, 2), (1, 1), (1, 1)))
    assert len(tail) <= 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_ending_of_a_first_cell_is_its_tail_and_eoi(kind):
    data = make(kind, progressive=True)
    jpeg = parse(data)
    assert ending(data[: jpeg.scans[0].ecs_stop]) == end_of_band_tail(jpeg.frame) + EOI


def test_an_ending_is_of_its_own_frame():
    tall, wide = make("420", progressive=True), make("444", progressive=True)
    endings = {ending(tall), ending(wide), ending(tall)}
    assert len(endings) == 2
