"""One row of a batch: the bytes of a file in, its crop at the batch's size out.

    bytes --decode at 1/s--> pixels --crop, bilinear, mirror--> out, a row of (N, height, width, 3)

The pixels are those that torchvision makes of a PIL image: cropped first, so that pixels outside
of the box do not count, then reduced by Pillow's antialiased bilinear filter, then mirrored. So
rows below the box are not decoded. Decoding and resizing release the GIL; a few dozen microseconds
of Python and two copies hold it.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcrstore.core import integer
from pcrstore.errors import DecodeError, OptionError
from pcrstore.image.crops import Box, Crop
from pcrstore.image.decoder import (
    SCALES,
    Decoder,
    decode_jpeg,
    decode_other,
    upright,
    use_simplejpeg,
)
from pcrstore.jpeg import MAX_PIXELS, first_rows, jpeg_shape

__all__ = ["Rendering", "render", "render_pixels"]

_SCRATCH_BYTES = 16 << 20
"""A thread keeps memory for images of up to 5.6 megapixels; larger ones get their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Size and crop that every image of a batch gets.

    Raises:
        OptionError: On making one, where a side is no integer of at least 1, or the crop is none.
    """

    size: int | tuple[int, int]
    """Of the result: the side of a square, or (height, width). Integers of NumPy become Python's
    own."""
    crop: Crop
    dct_scaling: bool = True
    """Decode at 1/2, 1/4 or 1/8 where the crop still has at least as many pixels as the result.

    That is several times faster for large images, and not bit for bit the same.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size(self.size))
        crop = self.crop
        if isinstance(crop, type) or not (hasattr(crop, "n_draws") and hasattr(crop, "box")):
            raise OptionError(f"crop must be a crop, such as CenterCrop(), got {crop!r}")

    @property
    def height(self) -> int:
        """Of the result."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Of the result."""
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and colours of the result."""
        return self.height, self.width, 3


def _size(size: object) -> int | tuple[int, int]:
    """Return a size that was given: a side, or a tuple or list of height and width."""
    if not isinstance(size, tuple | list):
        return integer(size, "size", least=1)
    if len(size) != 2:
        raise OptionError(f"size must be a side, or height and width, got {size!r}")
    height, width = (integer(side, "size", least=1) for side in size)
    return height, width


class _Scratch(threading.local):
    """Memory that a thread decodes into again and again: fresh pages cost a fault each."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)

    def of(self, n_bytes: int) -> NDArray[np.uint8] | None:
        """Return memory of at least `n_bytes`; None for more than a thread may keep."""
        if n_bytes > _SCRATCH_BYTES:
            return None
        if n_bytes > self.memory.size:
            self.memory = np.empty(n_bytes, np.uint8)
        return self.memory


_scratch = _Scratch()


def render(
    data: bytes,
    rendering: Rendering,
    draws: Sequence[float],
    out: NDArray[np.uint8],
    *,
    orientation: int = 1,
    decoder: Decoder = "auto",
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Decode an image, crop it, and write the crop to `out`.

    Args:
        data: As `decoder.decode`.
        rendering: Size and crop of the result.
        draws: `rendering.crop.n_draws` numbers in [0, 1).
        out: (height, width, 3), C-contiguous.
        orientation: EXIF orientation to undo first, 1 to 8; the box is chosen in the upright image.
        decoder: As `decoder.decode`.
        max_pixels: As `decoder.decode`.

    Raises:
        DecodeError: As `decoder.decode`.
        LimitError: As `decoder.decode`.
        OptionError: `out` has another shape, type or layout, the crop's box is not inside the
            image, or an orientation or decoder that does not exist.
        MissingDependencyError: As `decoder.decode`.
    """
    _check_out(out, rendering)
    if not 1 <= orientation <= 8:
        raise OptionError(f"orientation must be in 1..8, got {orientation}")
    by_simplejpeg = use_simplejpeg(decoder)
    shape = jpeg_shape(data, max_pixels)
    if shape is None:
        pixels = upright(decode_other(data, 1, max_pixels), orientation)
        render_pixels(pixels, rendering, draws, out)
        return
    width, height = shape.width, shape.height
    if orientation >= 5:
        width, height = height, width
    box = _checked_box(rendering.crop, width, height, draws)
    scale = _scale(box, rendering) if rendering.dct_scaling else 1
    cut, left = data, shape
    if orientation <= 2:  # rows of the upright image are rows of the file
        cut, left = first_rows(data, shape, math.ceil(box.bottom), scale)
    scratch = _scratch.of(-(-left.width // scale) * -(-left.height // scale) * 3)
    try:
        pixels = decode_jpeg(cut, left, scale, by_simplejpeg=by_simplejpeg, scratch=scratch)
    except DecodeError:
        if cut is data:
            raise
        pixels = decode_jpeg(data, shape, scale, by_simplejpeg=by_simplejpeg)
    _resample(upright(pixels, orientation), box, scale, out)


def render_pixels(
    pixels: NDArray[np.uint8],
    rendering: Rendering,
    draws: Sequence[float],
    out: NDArray[np.uint8],
) -> None:
    """Crop pixels that are decoded already, upright and whole, and write the crop to `out`.

    Args:
        pixels: (height, width, 3).
        rendering: Size and crop of the result.
        draws: As `render`.
        out: As `render`.

    Raises:
        OptionError: `out` or the box, as `render`; or pixels of another shape or type.
    """
    _check_out(out, rendering)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise OptionError(
            f"uint8 pixels of shape (height, width, 3) expected, got {pixels.dtype} of"
            f" {pixels.shape}"
        )
    box = _checked_box(rendering.crop, pixels.shape[1], pixels.shape[0], draws)
    _resample(pixels, box, 1, out)


def _check_out(out: NDArray[np.uint8], rendering: Rendering) -> None:
    flags, shape = out.flags, rendering.shape
    if out.shape != shape or out.dtype != np.uint8:
        raise OptionError(f"out must be uint8 of shape {shape}, got {out.dtype} of {out.shape}")
    if not (flags.c_contiguous and flags.writeable):
        raise OptionError("out must be C-contiguous and writable, got an array that is not")


def _checked_box(crop: Crop, width: int, height: int, draws: Sequence[float]) -> Box:
    if len(draws) != crop.n_draws:
        raise OptionError(f"{crop.n_draws} draws expected, got {len(draws)}")
    box = crop.box(width, height, draws)
    if not (0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height):
        raise OptionError(f"a box inside {width} x {height} pixels expected, got {box}")
    return box


def _scale(box: Box, rendering: Rendering) -> int:
    """Return the largest reduction that leaves the box at least as many pixels as the result.

    So nothing is enlarged that a full decode would not enlarge too.
    """
    room = min((box.right - box.left) / rendering.width, (box.bottom - box.top) / rendering.height)
    return max((s for s in SCALES if s <= room), default=1)


def _resample(pixels: NDArray[np.uint8], box: Box, scale: int, out: NDArray[np.uint8]) -> None:
    """Write the box, given at full resolution, of pixels reduced by `scale`."""
    height, width = out.shape[:2]
    # A reduced pixel is scale x scale full ones from the top left, the last perhaps cut, so the
    # box is divided as it is. Pillow is shown the pixels it touches and where in them it lies.
    left, top, right, bottom = (v / scale for v in (box.left, box.top, box.right, box.bottom))
    x, y = int(left), int(top)
    shown = math.ceil(right) - x, math.ceil(bottom) - y
    stride = pixels.shape[1] * 3
    # Image.fromarray would copy a part of an array once more, with the GIL held.
    seen = pixels.reshape(-1)[y * stride + x * 3 :]
    image = Image.frombuffer("RGB", shown, seen, "raw", "RGB", stride, 1)
    image = image.resize(
        (width, height),
        Image.Resampling.BILINEAR,
        box=(left - x, top - y, right - x, bottom - y),
    )
    if box.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out.reshape(-1)[:] = np.frombuffer(image.tobytes(), np.uint8)
