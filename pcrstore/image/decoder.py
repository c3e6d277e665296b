"""Pixels of an image: simplejpeg where it is installed and able, Pillow otherwise.

Both give the same pixels for a JPEG: libjpeg-turbo's accurate inverse DCT ("islow") and fancy
upsampling, on every scale. Calls release the GIL while they decode.
"""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from pcrstore.errors import DecodeError, LimitError, MissingDependencyError, OptionError
from pcrstore.jpeg import (
    EOI,
    MAX_PIXELS,
    SOI,
    JpegHeader,
    JpegInfo,
    check_pixels,
    jpeg_shape,
    readable_header,
)

__all__ = [
    "SCALES",
    "Decoder",
    "decode",
    "decode_jpeg",
    "decode_other",
    "open_plain",
    "upright",
    "use_simplejpeg",
]

Decoder = Literal["auto", "simplejpeg", "pillow"]

SCALES = (1, 2, 4, 8)
"""Denominators by which libjpeg's inverse DCT can reduce an image."""

# Formats that ImageNet-like collections hold beside JPEG. Left out: EPS, which runs Ghostscript,
# and others whose plug-ins see less use.
_OTHER_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "JPEG")

_pillow_warnings = threading.Lock()
"""Held while warnings are caught: warnings.catch_warnings is not safe for threads."""
# Nor may a forked child inherit it locked, or the filters half-way.
os.register_at_fork(
    before=_pillow_warnings.acquire,
    after_in_parent=_pillow_warnings.release,
    after_in_child=_pillow_warnings.release,
)


def decode(
    data: bytes,
    *,
    scale: int = 1,
    orientation: int = 1,
    decoder: Decoder = "auto",
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decode an image to RGB.

    Grey is repeated in R, G and B. CMYK and YCCK are read by Adobe's convention, in which files
    store 255 for no ink: R = C * K / 255 of the stored samples, rounded, and so G and B. Alpha is
    dropped, samples of 16 bits lose the lower 8, and of an animation the first frame is taken.

    JPEG bytes are decoded leniently, as their checksum has already told that they are right and
    libjpeg warns about an end-of-band tail. Where EOI is missing they are refused.

    Args:
        data: A JPEG up to its EOI (a prefix of scans with an end-of-band tail too), or a whole
            file of another format that Pillow reads.
        scale: 1, 2, 4 or 8: reduce each side to 1/scale, rounded up. Of a JPEG in the inverse DCT;
            of another format by the mean of scale x scale pixels.
        orientation: EXIF orientation to undo, 1 to 8.
        decoder: "pillow", or "simplejpeg" with Pillow for files that simplejpeg cannot read, or
            "auto": the latter where simplejpeg is installed.
        max_pixels: Refuse larger images, counted at scale 1, before decoding.

    Returns:
        A C-contiguous, writable array of shape (height, width, 3).

    Raises:
        DecodeError: The bytes are not an image that the decoders read, or are cut short.
        LimitError: More than max_pixels pixels, or than `MAX_DECODED_SCANS` scans.
        OptionError: A scale, orientation or decoder that does not exist.
        MissingDependencyError: simplejpeg is asked for and not installed.
    """
    if scale not in SCALES:
        raise OptionError(f"scale must be one of {SCALES}, got {scale}")
    if not 1 <= orientation <= 8:
        raise OptionError(f"orientation must be in 1..8, got {orientation}")
    by_simplejpeg = use_simplejpeg(decoder)
    shape = jpeg_shape(data, max_pixels)
    if shape is None:
        pixels = decode_other(data, scale, max_pixels)
    else:
        pixels = decode_jpeg(data, shape, scale, by_simplejpeg=by_simplejpeg)
    return upright(pixels, orientation)


def decode_jpeg(
    data: bytes,
    shape: JpegInfo,
    scale: int,
    *,
    by_simplejpeg: bool,
    scratch: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode a JPEG of which `jpeg_shape` gave the shape; otherwise as `decode`.

    Args:
        data: As `decode`.
        shape: From `jpeg_shape` or `first_rows`.
        scale: As `decode`, and not checked here.
        by_simplejpeg: From `use_simplejpeg`.
        scratch: Bytes to decode into, at least three for each pixel; the pixels returned may lie
            there. None: into memory of their own.
    """
    if by_simplejpeg:
        pixels = _decode_simplejpeg(data, shape, scale, scratch)
        if pixels is not None:
            return pixels
    header = readable_header(data)
    if header is None:  # the walk asks less than the parser; the limits have been checked
        return decode_other(data, scale, shape.width * shape.height)
    return _decode_pillow(data, header, scale)


def use_simplejpeg(decoder: Decoder) -> bool:
    """Say whether a decoder means simplejpeg here; errors are those of `decode`."""
    if decoder not in ("auto", "simplejpeg", "pillow"):
        raise OptionError(f"decoder must be auto, simplejpeg or pillow, got {decoder!r}")
    installed = _has_simplejpeg()
    if decoder == "simplejpeg" and not installed:
        raise MissingDependencyError("decoder simplejpeg needs: pip install 'pcrstore[fast]'")
    return installed and decoder != "pillow"


@cache
def _has_simplejpeg() -> bool:
    return find_spec("simplejpeg") is not None


@cache
def _simplejpeg() -> ModuleType:
    return import_module("simplejpeg")


def _decode_simplejpeg(
    data: bytes, shape: JpegInfo, scale: int, scratch: NDArray[np.uint8] | None
) -> NDArray[np.uint8] | None:
    """Decode with simplejpeg; None where it cannot, and Pillow has to say why or do better."""
    size = _scaled(shape.height, scale), _scaled(shape.width, scale)
    if not _is_unambiguous(shape, scale) or not data.endswith(EOI):
        return None
    is_cmyk = shape.n_components == 4
    try:
        pixels: NDArray[np.uint8] = _simplejpeg().decode_jpeg(
            data,
            colorspace="CMYK" if is_cmyk else "RGB",
            min_height=size[0],
            min_width=size[1],
            buffer=None if is_cmyk else scratch,
            strict=False,
        )
    except (ValueError, RuntimeError, MemoryError):
        return None
    if pixels.shape[:2] != size:
        return None
    return _rgb_of_cmyk(pixels) if is_cmyk else pixels


def _is_unambiguous(shape: JpegInfo, scale: int) -> bool:
    """Say whether the reduced size tells TurboJPEG the scale.

    It is given a size and takes the largest n / 8 whose result fits, so of an image of 3 x 3
    pixels it cannot be told to make one pixel at 1/8: it makes one at 2/8.
    """
    if shape.width >= 8 or shape.height >= 8:  # one eighth more is a pixel more
        return True
    n = 8 // scale + 1
    return any(-(-side * n // 8) > _scaled(side, scale) for side in (shape.height, shape.width))


def _decode_pillow(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    frame = header.frame
    # Without metadata Pillow has nothing to parse, to warn about or to take for an MPO. The class
    # itself, as Image.open would warn about large images, which have been checked here.
    try:
        image = JpegImagePlugin.JpegImageFile(
            io.BytesIO(SOI + header.without_metadata(data) + data[header.sos :])
        )
        # Pillow divides the size by this and rounds the quotient down to 1, 2, 4 or 8. Integers
        # would make it a smaller one for images of less than 8 pixels; the fractions are exact.
        size = frame.width / scale, frame.height / scale
        image.draft(None, size)  # type: ignore[arg-type]  # floats, see above
        image.load()
        if image.mode == "CMYK":
            # Pillow takes the samples for inverted and inverts them.
            return _rgb_of_cmyk(255 - np.asarray(image))
        pixels = np.array(image.convert("RGB"))
    except Exception as e:  # plug-ins raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DecodeError(f"Pillow cannot decode the JPEG: {e}") from e
    expected = _scaled(frame.height, scale), _scaled(frame.width, scale)
    if pixels.shape[:2] != expected:
        raise DecodeError(f"pixels of shape {expected} expected, got {pixels.shape[:2]}")
    return pixels


def decode_other(data: bytes, scale: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode by Pillow an image for which `jpeg_shape` is None; see `decode`."""
    with _opened(data, max_pixels) as image:
        rgb = _rgb_image(image)
        return np.array(rgb.reduce(scale) if scale > 1 else rgb)


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Give the image that Pillow reads, without its warnings and with its errors as ours."""
    with _pillow_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=_OTHER_FORMATS)
            check_pixels(image.width, image.height, max_pixels)
            yield image
        except (LimitError, DecodeError):
            raise
        except Image.DecompressionBombError as e:
            raise LimitError(f"over Pillow's limit on pixels: {e}") from e
        except Exception as e:  # see _decode_pillow
            raise DecodeError(f"Pillow cannot decode the file: {_reason(e)}") from e


def _reason(error: Exception) -> str:
    """Return Pillow's words, but of a file of unknown format, for which they show an address."""
    if isinstance(error, UnidentifiedImageError):
        return "of no image format that is read"
    return str(error)


def open_plain(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, bytes, bytes]:
    """Return any image that Pillow reads as 8-bit grey or RGB, with its EXIF and ICC profile.

    Alpha is dropped, and samples of 16 bits lose the lower 8. Samples without a known range (32-bit
    integers, floats) are refused, for whatever they were scaled by would be a guess.

    Raises:
        DecodeError: Pillow cannot read it.
        LimitError: Over `max_pixels`.
    """
    with _opened(data, max_pixels) as image:
        image.load()
        plain = _plain_image(image)
    return plain, image.info.get("exif", b""), image.info.get("icc_profile", b"")


def _plain_image(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DecodeError(f"samples of 8 or 16 bits expected, got Pillow mode {image.mode}")
    return _rgb_image(image)


def _rgb_image(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return Image.fromarray(_rgb_of_cmyk(255 - np.asarray(image)))
    if image.mode.startswith("I"):  # I;16, or I for some greyscale PNG and TIFF of 16 bits
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    return image.convert("RGB")


def _rgb_of_cmyk(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Multiply C, M and Y by K, as stored: 255 is no ink."""
    ink = stored.astype(np.uint32)
    return ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)


def _scaled(side: int, scale: int) -> int:
    return -(-side // scale)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (EXIF 2.3, 4.6.4): 5 to 8 swap rows and columns, then mirror."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
