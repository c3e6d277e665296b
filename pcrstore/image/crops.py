"""Crops: boxes as functions of the image's size and of uniform numbers.

Pure: sizes and numbers in, a box out. The loader draws the numbers by hashing (seed, epoch,
sample), so that a crop does not depend on the batch, the worker or the rank that makes it.

    0      left        right    width
    +------+-----------+--------+  0
    |      |           |        |
    |      +-----------+        |  top
    |      |    box    |        |
    |      +-----------+        |  bottom
    +---------------------------+  height
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pcrstore.core import real
from pcrstore.errors import OptionError

__all__ = ["Box", "CenterCrop", "Crop", "RandomResizedCrop", "Squash"]

_TRIES = 10
"""As many as torchvision makes before it takes the middle of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A part of an image, in pixels of its full resolution, upright."""

    left: float
    top: float
    right: float
    """Over `left`, and at most the width."""
    bottom: float
    """Over `top`, and at most the height."""
    mirrored: bool = False
    """True where left and right are to be swapped."""


class Crop(Protocol):
    """Chooses a box; picklable, as it is sent to worker processes."""

    @property
    def n_draws(self) -> int:
        """Number of uniform numbers that a box takes."""

    def box(self, width: int, height: int, draws: Sequence[float]) -> Box:
        """Return a box inside an image of width x height pixels, at least 1 x 1.

        Args:
            width: Of the upright image.
            height: Of the upright image.
            draws: `n_draws` numbers in [0, 1). A list is read faster than an array.
        """


def _bounds(value: object, name: str) -> tuple[float, float]:
    """Return a least and a largest number that were given as a tuple or list."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise OptionError(f"{name} must be two numbers, least and largest, got {value!r}")
    least, largest = (real(bound, name) for bound in value)
    return least, largest


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomResizedCrop:
    """A random share of the area at a random ratio of sides, then perhaps mirrored.

    The algorithm of torchvision.transforms.RandomResizedCrop.get_params and RandomHorizontalFlip:
    up to ten boxes of uniform area and log-uniform ratio are tried, the first that fits is put
    anywhere, and when none fits it is the largest in the middle. Sides are whole pixels.

    Raises:
        OptionError: On making one, where a bound is no number, or out of range or of order.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the area, in (0, 1]."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width / height, over 0."""
    flip: float = 0.5
    """Chance of being mirrored."""

    # Area and ratio of each try, then top and left, then the mirror: fixed places, so that what is
    # drawn for one thing does not move another.
    n_draws: ClassVar[int] = 2 * _TRIES + 2 + 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _bounds(self.scale, "scale"))
        object.__setattr__(self, "ratio", _bounds(self.ratio, "ratio"))
        object.__setattr__(self, "flip", real(self.flip, "flip"))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise OptionError(f"scale must be 0 < least <= largest <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise OptionError(f"ratio must be 0 < least <= largest, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise OptionError(f"flip must be a chance in 0..1, got {self.flip}")

    def box(self, width: int, height: int, draws: Sequence[float]) -> Box:
        """Return a box; see `Crop.box`."""
        area = width * height
        least, span = self.scale[0], self.scale[1] - self.scale[0]
        log_least = math.log(self.ratio[0])
        log_span = math.log(self.ratio[1]) - log_least
        for i in range(0, 2 * _TRIES, 2):
            target = area * (least + span * draws[i])
            ratio = math.exp(log_least + log_span * draws[i + 1])
            w = round(math.sqrt(target * ratio))
            h = round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(draws[2 * _TRIES] * (height - h + 1))
                left = int(draws[2 * _TRIES + 1] * (width - w + 1))
                break
        else:
            w, h = self._largest(width, height)
            top, left = (height - h) // 2, (width - w) // 2
        return Box(
            left=left,
            top=top,
            right=left + w,
            bottom=top + h,
            mirrored=draws[2 * _TRIES + 2] < self.flip,
        )

    def _largest(self, width: int, height: int) -> tuple[int, int]:
        ratio = width / height
        if ratio < self.ratio[0]:
            return width, max(1, round(width / self.ratio[0]))
        if ratio > self.ratio[1]:
            return max(1, round(height * self.ratio[1])), height
        return width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterCrop:
    """The square in the middle, a fraction of the shorter side: the usual crop of validation.

    Resizing the shorter side to 256 and then cutting 224 x 224 from the middle is the fraction
    224 / 256. One box does both, without rounding in between.

    Raises:
        OptionError: On making one, where the fraction is no number in (0, 1].
    """

    fraction: float = 224 / 256
    """Side of the square over the shorter side of the image."""

    n_draws: ClassVar[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", real(self.fraction, "fraction"))
        if not 0 < self.fraction <= 1:
            raise OptionError(f"fraction must be over 0 and at most 1, got {self.fraction}")

    def box(self, width: int, height: int, draws: Sequence[float]) -> Box:  # noqa: ARG002 - Crop
        """Return a box; see `Crop.box`."""
        side = self.fraction * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return Box(left=left, top=top, right=left + side, bottom=top + side)


@dataclass(frozen=True, slots=True, kw_only=True)
class Squash:
    """The whole image, whatever its ratio of sides."""

    n_draws: ClassVar[int] = 0

    def box(self, width: int, height: int, draws: Sequence[float]) -> Box:  # noqa: ARG002 - Crop
        """Return a box; see `Crop.box`."""
        return Box(left=0, top=0, right=width, bottom=height)
