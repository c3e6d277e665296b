"""Draw images at every fidelity side by side, as one picture.

column titles        dc          low         full
photo      row title [image]     [image]     [image]
                     caption     caption     caption
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Row", "contact_sheet"]

_CELL: Final = 232
"""Side of a cell in pixels: six columns fit a laptop's screen."""

_GAP: Final = 10
_LINE: Final = 16
_INK: Final = (24, 24, 24)
_PAPER: Final = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image at every fidelity."""

    title: str
    pixels: tuple[NDArray[np.uint8], ...]
    """(H, W, 3) each."""
    captions: tuple[str, ...]


def contact_sheet(columns: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Return the picture. Images are cut to a square in their middle, at their own scale.

    Args:
        columns: A title for each fidelity.
        rows: Images; each has one picture and one caption per column.
    """
    pitch = _CELL + 2 * _LINE + _GAP
    width = len(columns) * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _GAP + _LINE + _GAP + len(rows) * pitch), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for i, title in enumerate(columns):
        draw.text((_GAP + i * (_CELL + _GAP), _GAP), _plain(title), _INK, font)
    for n, row in enumerate(rows):
        top = _GAP + _LINE + _GAP + n * pitch
        draw.text((_GAP, top), _plain(row.title), _INK, font)
        for i, (pixels, caption) in enumerate(zip(row.pixels, row.captions, strict=True)):
            left = _GAP + i * (_CELL + _GAP)
            sheet.paste(_square(pixels), (left, top + _LINE))
            draw.text((left, top + _LINE + _CELL + 1), _plain(caption), _INK, font)
    return sheet


def _square(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the middle of an image, never shrunk below half: differences are in the detail."""
    image = Image.fromarray(pixels)
    side = min(*image.size, 2 * _CELL)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return cut.resize((_CELL, _CELL), Image.Resampling.LANCZOS)


def _plain(text: str) -> str:
    """Return the text without what the built-in font may lack."""
    return text.encode("ascii", "replace").decode("ascii")
