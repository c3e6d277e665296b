"""Decoding: two decoders, the same pixels, whatever the size, the scale and the colours."""

import io
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from jpeg_files import (
    KINDS,
    adobe,
    damaged,
    jpegtran,
    make,
    needs_jpegtran,
    picture,
    sample_files,
    segment,
    sof,
    tiny,
    with_scans,
)
from PIL import Image, ImageOps

from pcrstore.errors import DecodeError, JpegError, LimitError, MissingDependencyError, OptionError
from pcrstore.image import decoder as decode_module
from pcrstore.image.decoder import SCALES, decode, open_plain
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.scan_script import BUILTIN


def both(data, **options):
    """Pixels, after checking that the decoders agree about them."""
    fast = decode(data, decoder="simplejpeg", **options)
    np.testing.assert_array_equal(decode(data, decoder="pillow", **options), fast)
    return fast


def saved(image, kind, **options):
    """An image file by Pillow."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_agree(kind, scale, progressive):
    pixels = both(make(kind, progressive=progressive), scale=scale)
    assert pixels.shape == (-(-75 // scale), -(-101 // scale), 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [1, 2, 5])
@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_pixels_are_the_callers_own(decoder, orientation):
    for data in (make("420"), make("cmyk"), FILES["png"]):
        pixels = decode(data, decoder=decoder, orientation=orientation)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable  # torch.from_numpy warns about others


@pytest.mark.parametrize("kind", ["grey", "444", "422", "420", "rgb"])
def test_pixels_are_pillows(kind):
    data = make(kind)
    np.testing.assert_array_equal(
        both(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


@pytest.mark.parametrize("kind", ["cmyk", "ycck"])
def test_cmyk_is_the_product_of_ink_and_black(kind):
    data = make(kind)
    stored = 255.0 - np.asarray(Image.open(io.BytesIO(data))).astype(float)  # Pillow inverts
    expected = np.floor(stored[..., :3] * stored[..., 3:] / 255 + 0.5)
    np.testing.assert_array_equal(both(data), expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["grey", "444", "420"])
def test_every_small_size_is_exact_on_every_scale(kind, scale):
    for side in range(1, 41):
        for height, width in {(side, side), (side, 41 - side), (1, side), (side, 1)}:
            data = make(kind, height, width)
            pixels = both(data, scale=scale)
            assert pixels.shape == (-(-height // scale), -(-width // scale), 3)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_reduced_image_is_the_reduced_transform(scale):
    # 1/8 keeps the mean of a block; the others are near the mean of scale x scale pixels.
    data = make("grey", 64, 64, quality=100)
    full = decode(data).astype(float).reshape(64 // scale, scale, 64 // scale, scale, 3)
    assert np.abs(decode(data, scale=scale) - full.mean((1, 3))).mean() < 2.5


@needs_jpegtran
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("script", BUILTIN)
@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_agree_about_prefixes(kind, script, scale, tmp_path):
    source = make(kind)
    jpeg = parse(source)
    data = with_scans(source, BUILTIN[script].expand(jpeg.frame, jpeg.model), tmp_path)
    written = parse(data)
    for one in written.scans[::3]:
        prefix = data[: one.ecs_stop]
        pixels = both(prefix + end_of_band_tail(written.frame) + EOI, scale=scale)
        oracle = jpegtran(prefix + EOI, "-copy", "none")
        np.testing.assert_array_equal(decode(oracle, scale=scale, decoder="pillow"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_orientation_is_undone_as_pillow_does(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(picture(7, 11, 3)), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels = decode(data, orientation=orientation)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.c_contiguous


def test_orientation_comes_after_scale():
    assert decode(make("420"), scale=8, orientation=6).shape == (13, 10, 3)


OPTIONS = {
    "scale-0": {"scale": 0},
    "scale-3": {"scale": 3},
    "scale-16": {"scale": 16},
    "orientation-0": {"orientation": 0},
    "orientation-9": {"orientation": 9},
    "decoder": {"decoder": "opencv"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_option_that_does_not_exist_is_refused(options):
    with pytest.raises(OptionError, match=f"got {next(iter(options.values()))!r}"):
        decode(make("grey"), **options)


FILES = {
    "jpeg": make("420"),
    "png": saved(Image.fromarray(picture(75, 101, 3)), "PNG"),
    "gif": saved(Image.fromarray(picture(75, 101, 3)), "GIF"),
    "webp": saved(Image.fromarray(picture(75, 101, 3)), "WEBP", lossless=True),
    "bmp": saved(Image.fromarray(picture(75, 101, 3)), "BMP"),
    "tiff": saved(Image.fromarray(picture(75, 101, 3)), "TIFF"),
    "ppm": saved(Image.fromarray(picture(75, 101, 3)), "PPM"),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_pixels_are_limited(data):
    assert decode(data, max_pixels=75 * 101).shape == (75, 101, 3)
    with pytest.raises(LimitError, match="7574 pixels are decoded, got 101 x 75"):
        decode(data, max_pixels=75 * 101 - 1)
    with pytest.raises(LimitError):
        decode(data, max_pixels=75 * 101 - 1, scale=8)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "webp"])
def test_other_formats_are_decoded(kind):
    np.testing.assert_array_equal(decode(FILES[kind]), picture(75, 101, 3))


@pytest.mark.parametrize("scale", SCALES)
def test_another_format_is_reduced_by_the_mean(scale):
    pixels = decode(FILES["png"], scale=scale)
    assert pixels.shape == (-(-75 // scale), -(-101 // scale), 3)
    block = picture(75, 101, 3)[:scale, :scale].astype(float).mean((0, 1))
    np.testing.assert_allclose(pixels[0, 0], block, atol=1)


GREY_16 = np.array([[0, 255, 256], [0x1234, 0xFF00, 0xFFFF]], np.uint16)
MODES = {
    "grey": (Image.fromarray(np.array([[0, 7]], np.uint8)), [[0, 7]]),
    "one-bit": (Image.fromarray(np.array([[False, True]])), [[0, 255]]),
    "16-bit": (Image.fromarray(GREY_16), [[0, 0, 1], [0x12, 0xFF, 0xFF]]),
    "grey-alpha": (
        Image.merge("LA", [Image.new("L", (2, 1), 9), Image.new("L", (2, 1), 0)]),
        [[9, 9]],
    ),
    "palette": (Image.fromarray(np.array([[1, 200]], np.uint8)).convert("P"), [[1, 200]]),
}


@pytest.mark.parametrize(("image", "grey"), MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb(image, grey):
    np.testing.assert_array_equal(decode(saved(image, "PNG")), np.dstack([grey] * 3))


def test_alpha_is_dropped():
    rgba = np.dstack([picture(5, 4, 3), np.zeros((5, 4), np.uint8)])
    np.testing.assert_array_equal(decode(saved(Image.fromarray(rgba), "PNG")), rgba[..., :3])


@pytest.mark.parametrize("kind", [k for k in FILES if k not in ("gif", "webp")])
def test_every_cut_is_an_error(kind):
    data = FILES[kind]
    # The end of a PNG is two checksums and IEND, that of this BMP a byte of padding: no pixels.
    end = len(data) - {"png": 22, "bmp": 1}.get(kind, 0)
    for stop in [*range(0, min(end, 700), 7), *range(700, end, 997), end - 1]:
        with pytest.raises((DecodeError, LimitError)):
            decode(data[:stop])


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_a_jpeg_without_its_eoi_is_an_error(decoder):
    for kind in ("420", "cmyk"):
        for progressive in (False, True):
            data = make(kind, progressive=progressive)
            with pytest.raises(DecodeError):
                decode(data[: len(data) * 2 // 3], decoder=decoder)


def test_bytes_behind_eoi_are_ignored():
    data = make("420")
    np.testing.assert_array_equal(decode(data + b"trailing" * 9), decode(data))


BROKEN = {
    "empty": b"",
    "soi": SOI,
    "soi-eoi": SOI + EOI,
    "text": b"hello, this is not an image at all",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "lossless": tiny(frame=sof(marker=0xC3)),
    "two-components": tiny(frame=sof(((1, 0x11, 0), (2, 0x11, 0)))),
    "no-tables": make("grey").replace(b"\xff\xc4", b"\xff\xfe").replace(b"\xff\xdb", b"\xff\xfe"),
}


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_no_decoder_reads_is_a_decode_error(data, decoder):
    with pytest.raises(DecodeError, match="Pillow cannot decode the"):
        decode(data, decoder=decoder)


@pytest.mark.parametrize("n", [170, 171])
def test_scans_are_limited(n):
    jpeg = parse(make("grey", 8, 8, progressive=True))
    data = make("grey", 8, 8, progressive=True)[: jpeg.eoi]
    many = data + end_of_band_tail(jpeg.frame) * (n - len(jpeg.scans)) + EOI
    if n == 170:
        assert both(many).shape == (8, 8, 3)
    else:
        with pytest.raises(LimitError, match="170 scans"):
            decode(many)


def test_postscript_is_not_run():
    with pytest.raises(DecodeError, match=r"of no image format that is read$"):
        decode(BROKEN["eps"])


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_errors_do_not_show_where_in_memory_a_file_lies(data):
    for read in (decode, open_plain):
        with pytest.raises(DecodeError) as caught:
            read(data)
        assert " at 0x" not in str(caught.value)


@needs_jpegtran
def test_arithmetic_coding_goes_to_pillow():
    data = jpegtran(make("420"), "-arithmetic")
    np.testing.assert_array_equal(decode(data), decode(make("420")))


METADATA = {
    "broken-exif": segment(0xE1, b"Exif\x00\x00II*\x00\xff\xff\xff\x00"),
    "broken-mpo": segment(0xE2, b"MPF\x00II*\x00\x08\x00\x00\x00\x05\x00" + bytes(40)),
    "broken-icc": segment(0xE2, b"ICC_PROFILE\x00\x05\x02abc"),
    "broken-photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff"),
    "comment": segment(0xFE, b"\xff" * 50),
    "many": segment(0xE5, bytes(60_000)) * 20,
}


@pytest.mark.parametrize("segments", METADATA.values(), ids=METADATA)
def test_metadata_can_neither_warn_nor_fail(segments):
    data = make("420")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(both(SOI + segments + data[2:]), both(data))


def test_what_the_samples_mean_is_not_taken_for_metadata():
    ycbcr = make("444")
    jpeg = parse(ycbcr)
    bare = SOI + b"".join(ycbcr[s.start : s.stop] for s in jpeg.segments[1:-1])
    bare += ycbcr[jpeg.scans[0].sos :]
    as_rgb = both(bare[:2] + adobe(0) + bare[2:])
    assert (as_rgb != both(ycbcr)).any()


def test_a_large_image_does_not_warn(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 75 * 101 - 1)  # Pillow would warn
    for data in FILES.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(data, decoder="pillow").shape == (75, 101, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # Pillow would raise
    assert decode(FILES["jpeg"], decoder="pillow").shape == (75, 101, 3)
    with pytest.raises(LimitError, match="Pillow's limit"):
        decode(FILES["png"])


def test_threads_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    threads = [threading.Thread(target=decode, args=(FILES["png"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_can_decode_while_a_thread_of_the_parent_does():
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            decode(FILES["png"])

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if not child:
                decode(FILES["png"])
                os._exit(0)
            deadline = time.monotonic() + 20
            while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.01)
            assert ended[1] == 0
    finally:
        stop.set()
        thread.join()


def test_garbage_between_segments_goes_to_pillow():
    data = make("420")
    at = parse(data).segments[0].stop
    garbled = data[:at] + b"\x00garbage" + data[at:]
    np.testing.assert_array_equal(decode(garbled), decode(data))
    for stop in (at + 4, len(data) * 2 // 3):
        with pytest.raises(DecodeError):
            decode(garbled[:stop])


def test_without_simplejpeg_pillow_decodes(monkeypatch):
    expected = decode(make("420"), decoder="pillow")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setattr(decode_module, "_has_simplejpeg", lambda: False)
    np.testing.assert_array_equal(decode(make("420")), expected)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pcrstore\[fast\]'"):
        decode(make("420"), decoder="simplejpeg")


def test_simplejpeg_does_the_work_where_it_can(monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(decode_module, "_decode_pillow", refuse)
    for kind in KINDS:
        decode(make(kind), scale=2)
        data = make(kind, progressive=True)
        jpeg = parse(data)
        # With bits of a coefficient to come, libjpeg warns of the tail's inconsistent progression.
        decode(data[: jpeg.scans[1].ecs_stop] + end_of_band_tail(jpeg.frame) + EOI)


@given(damaged(16))
def test_damage_is_pixels_or_a_jpeg_error(data):
    for decoder in ("simplejpeg", "pillow"):
        try:
            pixels = decode(data, decoder=decoder, max_pixels=1_000_000)
        except JpegError:
            continue
        assert pixels.ndim == 3


def test_real_photos_decode_alike():
    for path in sample_files("imagenet-sample", "*.[Jj][Pp]*", 40):
        data = path.read_bytes()
        for scale in SCALES:
            both(data, scale=scale)


def test_odd_files_decode_or_raise_jpeg_errors():
    for path in sample_files("odd-jpegs", "*"):
        for decoder in ("simplejpeg", "pillow"):
            try:
                assert decode(path.read_bytes(), decoder=decoder, max_pixels=10**7).shape[2] == 3
            except JpegError as e:
                assert str(e)  # noqa: PT017 - either outcome is right
