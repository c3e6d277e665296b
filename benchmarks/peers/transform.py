"""The transform of every contestant: simplejpeg decodes, pcrstore's functions crop and resize."""

import random
from collections.abc import Callable

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pcrstore.errors import DecodeError
from pcrstore.image import RandomResizedCrop, Rendering, decode
from pcrstore.image.rendering import render_pixels


class Transform:
    """A file to a row of a batch, (size, size, 3): decode, random resized crop, flip.

    Rows have the channels last, so that a batch is stacked without turning each image round.
    """

    def __init__(self, size: int) -> None:
        self.rendering = Rendering(size=size, crop=RandomResizedCrop(), dct_scaling=False)

    def __call__(self, jpeg: bytes) -> NDArray[np.uint8]:
        """Return a row; the draws are of the process's own generator."""
        out = np.empty((self.rendering.height, self.rendering.width, 3), np.uint8)
        render_pixels(decoded(jpeg), self.rendering, drawn(random.random), out)
        return out


def drawn(uniform: Callable[[], float]) -> list[float]:
    """Return the numbers that a crop takes."""
    return [uniform() for _ in range(RandomResizedCrop.n_draws)]


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a file; the few that simplejpeg cannot read go pcrstore's way."""
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", strict=False)
    except ValueError:
        try:
            return decode(jpeg)
        except DecodeError as e:
            shown = f"{len(jpeg)} bytes, {jpeg[:16].hex()} ... {jpeg[-8:].hex()}"
            raise DecodeError(f"{e}; {shown}") from e
    return image
