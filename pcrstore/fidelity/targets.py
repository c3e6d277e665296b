"""Fidelity targets: values that a reader asks for, and the scan group that each comes to.

Pure. A fidelity is a group number 1..G, `"full"` (G), or a target such as a quality or a byte
budget. A target is looked up in the statistics that conversion measured on the dataset, so that
one training config gives the same quality on datasets whose curves differ:

    groups of a dataset           1       2       3
    mean MS-SSIM up to each       0.90    0.95    1.00      "ms-ssim>=0.93" is 2
    mean bytes up to each         1000    3000    6000      "bytes<=3kb"    is 2

A new kind of target is a class with `resolve_for`, which is then accepted wherever a fidelity is,
and, where it can be written as text, a row of `TEXT_FORMS`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from pcrstore.core import parse_size
from pcrstore.errors import FidelityError, OptionError
from pcrstore.format import MS_SSIM, Manifest

__all__ = [
    "ORIGINAL",
    "TEXT_FORMS",
    "ByteBudget",
    "Fidelity",
    "FidelityTarget",
    "MsSsim",
    "resolve",
    "resolve_fetch",
]

ORIGINAL: Final = "original"
"""The source file, byte for byte; `fetch` and `export` take it where a fidelity is asked for."""

_FULL: Final = "full"

_MAX_LENGTH: Final = 40
"""Characters of a fidelity as text: `int` and `float` have limits of their own far above."""


@runtime_checkable
class FidelityTarget(Protocol):
    """A rule that picks a scan group by a dataset's statistics. Hashable, and it pickles."""

    def resolve_for(self, manifest: Manifest) -> int:
        """Return the group number, 1..G.

        Raises:
            FidelityError: More than the dataset can give; say what it can.
        """


@dataclass(frozen=True, slots=True)
class MsSsim:
    """The lowest fidelity whose mean MS-SSIM is at least this."""

    at_least: float

    @classmethod
    def parse(cls, text: str) -> "MsSsim | None":
        """Return the target that `ms-ssim>=X` is; None for any other text."""
        found = re.fullmatch(r"ms-?ssim>=([01](?:\.\d+)?|\.\d+)", text)
        return cls(float(found[1])) if found else None

    def resolve_for(self, manifest: Manifest) -> int:
        """Return the first group up to which the mean MS-SSIM is high enough."""
        quality = manifest.measured(MS_SSIM)
        if quality is None:
            raise FidelityError("no quality was measured when this dataset was converted")
        for k, value in enumerate(quality.mean, 1):
            if value >= self.at_least:
                return k
        raise FidelityError(
            f"MS-SSIM must be at most {quality.mean[-1]:.4f} (full fidelity), got {self.at_least}"
        )


@dataclass(frozen=True, slots=True)
class ByteBudget:
    """The highest fidelity whose mean bytes per image are at most this."""

    at_most: int

    @classmethod
    def parse(cls, text: str) -> "ByteBudget | None":
        """Return the target that `bytes<=N` is, with a unit or none; None for any other text."""
        found = re.fullmatch(r"bytes<=(\d+(?:\.\d+)?(?:[km]i?)?b?)", text, re.ASCII)
        try:
            return cls(parse_size(found[1])) if found else None
        except OptionError:  # more bytes than any file has
            return None

    def resolve_for(self, manifest: Manifest) -> int:
        """Return the last group up to which the mean image is small enough."""
        n_images = max(1, manifest.n_images)
        best, total = 0, 0
        for k, group in enumerate(manifest.totals.groups, 1):
            total += group
            if total <= self.at_most * n_images:
                best = k
        if best == 0:
            mean = manifest.totals.groups[0] / n_images
            raise FidelityError(
                f"byte budget must be at least {mean:.0f} per image (fidelity 1), "
                f"got {self.at_most}"
            )
        return best


Fidelity = int | str | MsSsim | ByteBudget | FidelityTarget
"""A group number, `"full"`, `"ms-ssim>=0.98"`, `"bytes<=20kb"`, or a target as a value."""

TEXT_FORMS: Final[dict[str, Callable[[str], FidelityTarget | None]]] = {
    "ms-ssim>=X": MsSsim.parse,
    "bytes<=N": ByteBudget.parse,
}
"""Each form of a target as text, as messages show it, and its parser.

A parser gets text in lower case without spaces, and returns None for what is not of its form."""


def resolve(fidelity: Fidelity, manifest: Manifest) -> int:
    """Return the group number, 1..G, that a fidelity comes to for a dataset.

    Raises:
        FidelityError: Not a fidelity, out of range, or more than the dataset can give.
    """
    n = manifest.n_groups
    wanted = _parse(fidelity, n) if isinstance(fidelity, str) else fidelity
    if isinstance(wanted, FidelityTarget):
        wanted = wanted.resolve_for(manifest)
    if isinstance(wanted, bool) or not hasattr(wanted, "__index__"):
        raise FidelityError(f"fidelity must be an integer in 1..{n} or a string, got {fidelity!r}")
    k = wanted.__index__()
    if not 1 <= k <= n:
        raise FidelityError(f"fidelity must be in 1..{n}, got {k}")
    return k


def _parse(text: str, n_groups: int) -> int | FidelityTarget:
    """Return the group number or the target that a fidelity is as text."""
    if text.strip().lower() == _FULL:
        return n_groups
    word = text.lower().replace(" ", "").strip()
    if len(word) <= _MAX_LENGTH:
        if word.isdecimal():
            return int(word)
        for parse in TEXT_FORMS.values():
            target = parse(word)
            if target is not None:
                return target
    *first, last = (f'"{form}"' for form in (_FULL, *TEXT_FORMS))
    raise FidelityError(
        f"fidelity must be 1..{n_groups}, {', '.join(first)} or {last}, got {text!r}"
    )


def resolve_fetch(fidelity: Fidelity, manifest: Manifest) -> tuple[int, bool]:
    """Return the group number, and True where the source file itself is wanted."""
    if isinstance(fidelity, str) and fidelity.strip().lower() == ORIGINAL:
        return manifest.n_groups, True
    return resolve(fidelity, manifest), False
