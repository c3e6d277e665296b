"""Rows of a batch: the pixels that PIL and torchvision make, from every file and every decoder."""

import contextlib
import io
import itertools
import pickle
import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_files import KINDS, damaged, jpegtran, make, needs_jpegtran, picture, sample_files
from PIL import Image, ImageOps

import pcrstore
from pcrstore.core.hashing import key_of, uniforms
from pcrstore.errors import DecodeError, JpegError, LimitError, OptionError
from pcrstore.image import decoder as decode_module
from pcrstore.image import rendering as pixels_module
from pcrstore.image.crops import Box, CenterCrop, RandomResizedCrop, Squash
from pcrstore.image.decoder import decode
from pcrstore.image.rendering import Rendering, render, render_pixels
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.markers import EOI
from pcrstore.jpeg.parser import parse_frame

DECODERS = ["simplejpeg", "pillow"]
BILINEAR = Image.Resampling.BILINEAR


class Fixed:
    """A crop that is always the same box."""

    n_draws = 0

    def __init__(self, *sides, mirrored=False):
        left, top, right, bottom = sides
        self._box = Box(left=left, top=top, right=right, bottom=bottom, mirrored=mirrored)

    def box(self, width, height, draws):  # noqa: ARG002
        return self._box


def draws_of(*words):
    return uniforms(np.array([key_of(*words)], np.uint64), RandomResizedCrop.n_draws)[0].tolist()


def rendered(data, crop, size=32, draws=(), *, dct_scaling=False, **options):
    """The row, written into the middle of a batch whose other rows must stay as they are."""
    rendering = Rendering(size=size, crop=crop, dct_scaling=dct_scaling)
    batch = np.full((3, rendering.height, rendering.width, 3), 7, np.uint8)
    render(data, rendering, draws, batch[1], **options)
    assert (batch[[0, 2]] == 7).all()
    return batch[1]


def torchvisions(image, box, size):
    """Crop, resize, flip: torchvision.transforms.functional.resized_crop and hflip of a PIL image.

    A box between pixels is what Pillow's own resize does in the least crop around it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    outer = (int(box.left), int(box.top), -int(-box.right // 1), -int(-box.bottom // 1))
    inner = tuple(
        v - outer[i % 2] for i, v in enumerate((box.left, box.top, box.right, box.bottom))
    )
    out = image.convert("RGB").crop(outer).resize((width, height), BILINEAR, box=inner)
    return np.asarray(out.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if box.mirrored else out)


def opened(data):
    """The image by Pillow; CMYK by the rule of `decode`."""
    image = Image.open(io.BytesIO(data))
    return Image.fromarray(decode(data, decoder="pillow")) if image.mode == "CMYK" else image


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_what_torchvision_makes_of_pils_image(kind, progressive, decoder):
    data = make(kind, progressive=progressive)
    crop = RandomResizedCrop()
    mirrored = set()
    for seed in range(8):
        draws = draws_of(seed, 5)
        box = crop.box(101, 75, draws)
        mirrored.add(box.mirrored)
        np.testing.assert_array_equal(
            rendered(data, crop, 32, draws, decoder=decoder), torchvisions(opened(data), box, 32)
        )
    assert mirrored == {False, True}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [1, 75, (20, 33), (300, 9)])
@pytest.mark.parametrize("crop", [CenterCrop(), CenterCrop(fraction=1.0), Squash()])
def test_every_crop_and_size_is_exact(crop, size, decoder):
    data = make("420")
    np.testing.assert_array_equal(
        rendered(data, crop, size, decoder=decoder),
        torchvisions(opened(data), crop.box(101, 75, []), size),
    )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["grey", "444", "420", "cmyk"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1), (2, 3), (7, 9), (17, 8)])
@pytest.mark.parametrize("dct_scaling", [False, True])
def test_odd_sizes_are_exact(width, height, kind, decoder, dct_scaling):
    data = make(kind, height, width)
    for crop, draws in ((Squash(), []), (CenterCrop(), []), (RandomResizedCrop(), draws_of(3))):
        np.testing.assert_array_equal(
            # 24 is more than any crop here has in its shorter side: nothing to reduce.
            rendered(data, crop, 24, draws, decoder=decoder, dct_scaling=dct_scaling),
            torchvisions(opened(data), crop.box(width, height, draws), 24),
        )


@settings(max_examples=60)
@given(
    st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted),
    st.tuples(st.floats(0, 74), st.floats(0, 74)).map(sorted),
    st.booleans(),
    st.booleans(),
)
def test_any_box_is_exact(xs, ys, mirrored, dct_scaling):
    crop = Fixed(xs[0], ys[0], xs[1] + 1, ys[1] + 1, mirrored=mirrored)
    data = make("420")
    np.testing.assert_array_equal(
        rendered(data, crop, 76, dct_scaling=dct_scaling),  # over the height: never reduced
        torchvisions(opened(data), crop.box(0, 0, []), 76),
    )


def test_nothing_outside_of_the_box_is_looked_at():
    left = np.zeros((40, 60, 3), np.uint8)
    left[:, 30:] = 255
    rendering = Rendering(size=8, crop=Fixed(0, 0, 30, 40))
    out = np.full((8, 8, 3), 9, np.uint8)
    render_pixels(left, rendering, [], out)
    assert (out == 0).all()


@pytest.mark.parametrize("script", ["sa5", "spec5"])
def test_every_fidelity_is_exact(script, tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for i, kind in enumerate(["grey", "444", "420", "cmyk"]):
        (tmp_path / "photos" / "cat" / f"{i}.jpg").write_bytes(make(kind, 90 + i, 120 - i))
    target = str(tmp_path / "ds")
    options = pcrstore.Options(script=script)
    pcrstore.convert(str(tmp_path / "photos"), target, options, workers=1)
    crop = RandomResizedCrop()
    ds = pcrstore.open(target)
    for k in range(1, 6):
        for i, sample in enumerate(ds.iter(fidelity=k)):
            draws = draws_of(k, i)
            data = sample.jpeg.removesuffix(EOI)
            data += (end_of_band_tail(parse_frame(data)) if k < 5 else b"") + EOI
            box = crop.box(*opened(data).size, draws)
            for decoder in DECODERS:
                np.testing.assert_array_equal(
                    rendered(data, crop, 40, draws, decoder=decoder),
                    torchvisions(opened(data), box, 40),
                )


def decodes(monkeypatch):
    """The (shape, scale) of every JPEG that is decoded from now on."""
    asked = []
    real = pixels_module.decode_jpeg

    def listening(data, shape, scale, **more):
        asked.append((shape, scale))
        return real(data, shape, scale, **more)

    monkeypatch.setattr(pixels_module, "decode_jpeg", listening)
    return asked


def scale_used(monkeypatch, data, crop, size, **options):
    """The scale that the decoder was asked for."""
    asked = decodes(monkeypatch)
    rendered(data, crop, size, dct_scaling=True, **options)
    [(_, scale)] = asked
    return scale


SCALES = [
    # width and height of the crop, size of the result (height, width), scale
    ("a-pixel-short-of-2", (63, 64), 32, 1),
    ("2-in-both", (64, 64), 32, 2),
    ("half-a-pixel-short-of-2", (64, 63.5), 32, 1),
    ("a-pixel-short-of-4", (127, 128), 32, 2),
    ("4-in-both", (128, 128), 32, 4),
    ("between-4-and-8", (223, 223), 32, 4),
    ("a-pixel-short-of-8", (256, 255), 32, 4),
    ("8-in-both", (256, 256), 32, 8),
    ("over-8", (300, 300), 8, 8),
    ("enlarged", (20, 20), 32, 1),
    ("wide-result", (256, 64), (8, 128), 2),
    ("tall-result", (64, 256), (128, 8), 2),
]


@pytest.mark.parametrize(
    ("crop", "size", "scale"), [row[1:] for row in SCALES], ids=[row[0] for row in SCALES]
)
def test_the_scale_is_the_largest_that_leaves_enough(monkeypatch, crop, size, scale):
    data = make("420", 300, 300)
    fixed = Fixed(0, 0, *crop)
    assert scale_used(monkeypatch, data, fixed, size) == scale


def test_the_scale_is_chosen_in_the_upright_image(monkeypatch):
    data = make("420", 64, 256)  # upright it is 64 wide and 256 high
    assert scale_used(monkeypatch, data, Squash(), (128, 8), orientation=6) == 2
    assert scale_used(monkeypatch, data, Squash(), (8, 128), orientation=1) == 2
    assert scale_used(monkeypatch, data, Squash(), (8, 128), orientation=6) == 1


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, ((a.astype(float) - b) ** 2).mean()))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(150, 200), (75, 100), (37, 50), (30, 30)])
def test_a_scaled_decode_looks_the_same(size, decoder):
    data = make("420", 301, 403, quality=95)
    # Boxes off the grid of 2, 4 and 8: an error of a pixel in place costs over 10 dB.
    for crop in (Squash(), Fixed(1, 1, 402, 301), Fixed(2.5, 0, 403, 300.5, mirrored=True)):
        scaled = rendered(data, crop, size, dct_scaling=True, decoder=decoder)
        assert psnr(scaled, rendered(data, crop, size, decoder=decoder)) > 32


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("dct_scaling", [False, True])
def test_the_box_lies_in_the_upright_image(orientation, kind, dct_scaling):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(picture(70, 110, 3)).save(file, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(file))
    crop, draws = RandomResizedCrop(flip=1.0), draws_of(orientation)
    expected = torchvisions(upright, crop.box(*upright.size, draws), 110)
    got = rendered(
        file.getvalue(), crop, 110, draws, orientation=orientation, dct_scaling=dct_scaling
    )
    np.testing.assert_array_equal(got, expected)
    if dct_scaling:
        small = torchvisions(upright, Squash().box(*upright.size, []), 16)
        options = {"orientation": orientation, "dct_scaling": True}
        assert psnr(rendered(file.getvalue(), Squash(), 16, **options), small) > 28


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("orientation", "decoded"), [(1, 32), (2, 32), *((other, 75) for other in range(3, 9))]
)
def test_rows_below_the_box_are_not_decoded(orientation, decoded, decoder, monkeypatch):
    data = make("420")
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(with_exif(opened(data), exif))
    asked = decodes(monkeypatch)
    crop = Fixed(3, 1, 40, 14.5)  # 14 rows, and two more, would be an MCU
    np.testing.assert_array_equal(
        rendered(data, crop, 32, orientation=orientation, decoder=decoder),
        torchvisions(upright, crop.box(0, 0, []), 32),
    )
    assert [shape.height for shape, _ in asked] == [decoded]


@pytest.mark.parametrize("kind", ["420", "440"])
def test_a_scaled_decode_is_cut_alike(kind, monkeypatch):
    data = make(kind)
    for scale, bottom in itertools.product((2, 4, 8), range(8, 75)):
        crop, size = Fixed(0, 0, 101, bottom), (bottom // scale, 101 // scale)
        assert scale_used(monkeypatch, data, crop, size) >= scale
        got = rendered(data, crop, size, dct_scaling=True)
        with monkeypatch.context() as m:
            m.setattr(pixels_module, "first_rows", lambda data, shape, *_: (data, shape))
            np.testing.assert_array_equal(got, rendered(data, crop, size, dct_scaling=True))


@needs_jpegtran
def test_damage_below_the_box_is_no_error_where_it_is_none_in_the_whole():
    data = bytearray(jpegtran(make("420"), "-restart", "1"))
    marks = [m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    data[marks[-1] + 1] = 0x02  # reserved: libjpeg passes over it where it looks for a restart
    data = bytes(data)
    whole = decode(data)
    crop = Fixed(0, 0, 101, 10)
    for decoder in DECODERS:
        out = rendered(data, crop, (10, 101), decoder=decoder)
        np.testing.assert_array_equal(out, whole[:10])


@given(damaged(40))
def test_damage_below_the_box_is_never_an_error_more(data):
    crop = Fixed(0, 0, 5, 9)
    try:
        decode(data, max_pixels=1_000_000)
    except JpegError:
        return
    with contextlib.suppress(OptionError):  # now smaller than the box
        rendered(data, crop, (9, 5), max_pixels=1_000_000)


def with_exif(image, exif):
    """The image, with EXIF as a file that is opened has it."""
    image.load()
    image.info["exif"] = exif.tobytes()
    image._exif = None
    return image


OPAQUE = {
    "png": Image.fromarray(picture(75, 101, 3)),
    "bmp": Image.fromarray(picture(75, 101, 3)),
    "webp": Image.fromarray(picture(75, 101, 3)),
}


@pytest.mark.parametrize(("kind", "image"), OPAQUE.items(), ids=OPAQUE)
def test_other_formats_are_cropped_alike(kind, image):
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "webp" else {}))
    crop, draws = RandomResizedCrop(), draws_of(9)
    for dct_scaling in (False, True):  # there is nothing to scale
        np.testing.assert_array_equal(
            rendered(file.getvalue(), crop, 16, draws, dct_scaling=dct_scaling),
            torchvisions(image, crop.box(101, 75, draws), 16),
        )


@pytest.mark.parametrize("kind", ["grey", "420", "cmyk"])
def test_decoded_pixels_are_cropped_alike(kind):
    pixels = decode(make(kind))
    crop, draws = RandomResizedCrop(), draws_of(4)
    rendering = Rendering(size=(20, 30), crop=crop, dct_scaling=False)
    out = np.empty((20, 30, 3), np.uint8)
    for given_pixels in (pixels, np.asfortranarray(pixels), pixels[::-1][::-1]):
        render_pixels(given_pixels, rendering, draws, out)
        np.testing.assert_array_equal(out, rendered(make(kind), crop, (20, 30), draws))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "data",
    [b"", b"no image", make("420")[:-2], make("420")[:700], make("420")[:30]],
    ids=["empty", "text", "no-eoi", "cut", "cut-in-the-header"],
)
def test_damage_is_a_decode_error(data, decoder):
    with pytest.raises(DecodeError):
        rendered(data, Squash(), decoder=decoder)


def test_pixels_are_limited():
    for data in (make("420"), make("grey")):
        rendered(data, Squash(), max_pixels=75 * 101)
        with pytest.raises(LimitError, match="7574 pixels are decoded, got 101 x 75"):
            rendered(data, Squash(), max_pixels=75 * 101 - 1)


RENDERING = Rendering(size=(8, 9), crop=Squash())
WRONG_OUT = {
    "shape": np.empty((9, 8, 3), np.uint8),
    "channels-first": np.empty((3, 8, 9), np.uint8),
    "batch": np.empty((1, 8, 9, 3), np.uint8),
    "dtype": np.empty((8, 9, 3), np.float32),
    "signed": np.empty((8, 9, 3), np.int8),
    "fortran": np.empty((8, 9, 3), np.uint8, order="F"),
    "strided": np.empty((8, 18, 3), np.uint8)[:, ::2],
    "read-only": np.frombuffer(bytes(8 * 9 * 3), np.uint8).reshape(8, 9, 3),
}


@pytest.mark.parametrize("out", WRONG_OUT.values(), ids=WRONG_OUT)
def test_a_row_of_another_kind_is_refused(out):
    with pytest.raises(OptionError, match="out must be"):
        render(make("420"), RENDERING, [], out)
    with pytest.raises(OptionError, match="out must be"):
        render_pixels(decode(make("420")), RENDERING, [], out)


WRONG_PIXELS = {
    "grey": np.empty((8, 9), np.uint8),
    "rgba": np.empty((8, 9, 4), np.uint8),
    "float": np.empty((8, 9, 3), np.float64),
    "empty": np.empty((0, 9, 3), np.uint8),
}


@pytest.mark.parametrize("pixels", WRONG_PIXELS.values(), ids=WRONG_PIXELS)
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(OptionError, match="uint8 pixels of shape"):
        render_pixels(pixels, RENDERING, [], np.empty((8, 9, 3), np.uint8))


@pytest.mark.parametrize(
    "sides", [(-0.1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 102, 5), (0, 0, 5, 75.1), (5, 0, 5, 5)]
)
def test_a_box_outside_of_the_image_is_refused(sides):
    with pytest.raises(OptionError, match="a box inside 101 x 75 pixels expected"):
        rendered(make("420"), Fixed(*sides))


@pytest.mark.parametrize("n", [0, 22, 24])
def test_a_wrong_number_of_draws_is_refused(n):
    with pytest.raises(OptionError, match=f"23 draws expected, got {n}"):
        rendered(make("420"), RandomResizedCrop(), 8, [0.5] * n)


@pytest.mark.parametrize("options", [{"orientation": 0}, {"orientation": 9}, {"decoder": "opencv"}])
def test_a_wrong_option_is_refused(options):
    with pytest.raises(OptionError):
        rendered(make("420"), Squash(), **options)


@pytest.mark.parametrize("size", [0, -1, (0, 5), (5, 0), [5, 0], np.int64(0)], ids=repr)
def test_a_size_below_one_is_refused(size):
    with pytest.raises(OptionError, match="size must be an integer of at least 1, got"):
        Rendering(size=size, crop=Squash())


@pytest.mark.parametrize(
    "size", [64.0, "64", None, True, (), (64,), (64, 64, 3), (64, 64.0), ("6", "4")], ids=repr
)
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(OptionError, match="size must be"):
        Rendering(size=size, crop=Squash())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (np.int64(9), 9),
        ((np.uint8(9), 8), (9, 8)),
        ([9, 8], (9, 8)),
        (1, 1),
        ((1, 1), (1, 1)),
    ],
    ids=repr,
)
def test_a_size_may_be_of_any_integers(size, expected):
    rendering = Rendering(size=size, crop=Squash())
    assert rendering.size == expected
    assert {type(side) for side in (rendering.height, rendering.width)} == {int}
    assert hash(rendering) == hash(Rendering(size=expected, crop=Squash()))


@pytest.mark.parametrize("crop", ["center", Squash, RandomResizedCrop, None, 0.5, print], ids=repr)
def test_a_crop_that_is_none_is_refused(crop):
    with pytest.raises(OptionError, match="crop must be a crop, such as"):
        Rendering(size=8, crop=crop)


def test_a_rendering_travels_to_workers():
    rendering = Rendering(size=(3, 4), crop=RandomResizedCrop(flip=0.0))
    again = pickle.loads(pickle.dumps(rendering))  # noqa: S301 - our own
    assert again == rendering
    assert (again.height, again.width) == (3, 4)


def test_images_in_turn_do_not_mix(monkeypatch):
    # Small, large, small, over what a thread keeps, small: each in memory that held another.
    sizes = ((150, 150), (200, 200), (30, 20), (201, 200), (10, 60), (150, 100))
    files = [make(kind, *size) for size, kind in itertools.product(sizes, ("420", "cmyk"))]
    images = [opened(data) for data in files]
    monkeypatch.setattr(pixels_module, "_SCRATCH_BYTES", 200 * 200 * 3)
    monkeypatch.setattr(pixels_module, "_scratch", pixels_module._Scratch())
    monkeypatch.setattr(decode_module, "_decode_pillow", None)  # no way out of too little memory
    for data, image in zip(files, images, strict=True):
        expected = torchvisions(image, Squash().box(*image.size, []), 64)
        np.testing.assert_array_equal(rendered(data, Squash(), 64), expected)


@pytest.mark.parametrize("dct_scaling", [False, True])
def test_what_a_thread_keeps_is_bounded_and_its_own(monkeypatch, dct_scaling):
    monkeypatch.setattr(pixels_module, "_SCRATCH_BYTES", 100 * 100 * 3)
    scratch = pixels_module._Scratch()
    monkeypatch.setattr(pixels_module, "_scratch", scratch)
    rendered(make("420", 100, 101), Squash(), 64, dct_scaling=dct_scaling)
    assert scratch.memory.size == 0
    rendered(make("420", 100, 100), Squash(), 64, dct_scaling=dct_scaling)
    kept = scratch.memory
    assert kept.size == 100 * 100 * 3
    rendered(make("420", 90, 100), Squash(), 64, dct_scaling=dct_scaling)
    assert scratch.memory is kept
    of_another = []
    thread = threading.Thread(target=lambda: of_another.append(scratch.of(9)))
    thread.start()
    thread.join()
    assert not np.shares_memory(of_another[0], kept)


def test_threads_render_what_one_does():
    files = [make(kind, 60 + i, 90 - i) for i, kind in enumerate(["grey", "420", "444", "cmyk"])]
    rendering = Rendering(size=48, crop=RandomResizedCrop())
    alone = [rendered(data, rendering.crop, 48, draws_of(i)) for i, data in enumerate(files)]
    batch = np.zeros((4, 40, 48, 48, 3), np.uint8)

    def work(t):
        for n in range(40):
            i = (n + t) % 4
            render(files[i], Rendering(size=48, crop=rendering.crop), draws_of(i), batch[t, n])

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for t in range(4):
        for n in range(40):
            np.testing.assert_array_equal(batch[t, n], alone[(n + t) % 4])


@needs_jpegtran
def test_arithmetic_coding_is_rendered_by_pillow():
    data = jpegtran(make("420"), "-arithmetic")
    np.testing.assert_array_equal(rendered(data, Squash()), rendered(make("420"), Squash()))


@pytest.mark.parametrize("decoder", DECODERS)
def test_real_photos_are_exact(decoder):
    crop = RandomResizedCrop()
    for i, path in enumerate(sample_files("imagenet-sample", "*.[Jj][Pp]*", 25)):
        data, draws = path.read_bytes(), draws_of(i)
        image = opened(data)
        expected = torchvisions(image, crop.box(*image.size, draws), 224)
        np.testing.assert_array_equal(rendered(data, crop, 224, draws, decoder=decoder), expected)
        scaled = rendered(data, crop, 64, draws, decoder=decoder, dct_scaling=True)
        assert psnr(scaled, rendered(data, crop, 64, draws, decoder=decoder)) > 28
