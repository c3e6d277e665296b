"""What a reader may ask for as fidelity, and the group it comes to for a dataset.

Pure. A fidelity is a group number 1..G, `"full"` (G), a quality target or a byte budget; the last
two are looked up in the statistics that conversion measured on this dataset, so that one training
config gives the same quality on datasets whose curves differ.
"""

import re
from dataclasses import dataclass

from pcrstore.errors import FidelityError
from pcrstore.format import Manifest

__all__ = ["ORIGINAL", "ByteBudget", "Fidelity", "MsSsim", "resolve", "resolve_fetch"]

ORIGINAL = "original"
"""The source file, byte for byte; `fetch` and `export` take it where a fidelity is asked for."""


@dataclass(frozen=True, slots=True)
class MsSsim:
    """The lowest fidelity whose mean MS-SSIM is at least this."""

    at_least: float


@dataclass(frozen=True, slots=True)
class ByteBudget:
    """The highest fidelity whose mean bytes per image are at most this."""

    at_most: int


Fidelity = int | str | MsSsim | ByteBudget
"""A group number, `"full"`, `"ms-ssim>=0.98"`, `"bytes<=20kb"`, or the values these stand for."""

_MAX_LENGTH = 40
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}


def _parse(text: str) -> int | MsSsim | ByteBudget | None:
    word = text.strip().lower().replace(" ", "")
    if len(word) > _MAX_LENGTH:  # int() and float() have limits of their own
        return None
    if word.isdecimal():
        return int(word)
    if m := re.fullmatch(r"ms-?ssim>=([01](?:\.\d+)?|\.\d+)", word):
        return MsSsim(float(m[1]))
    if m := re.fullmatch(r"bytes<=(\d+(?:\.\d+)?)(?:(k|m)(i)?)?b?", word):
        unit = f"{m[2]}{m[3] or ''}b" if m[2] else ""
        return ByteBudget(int(float(m[1]) * _UNITS[unit]))
    return None


def resolve(fidelity: Fidelity, m: Manifest) -> int:
    """Return the group number, 1..G, that a fidelity comes to for this dataset.

    Raises:
        FidelityError: Not a fidelity, out of range, or more than the dataset can give.
    """
    n = m.n_groups
    wanted = fidelity
    if isinstance(wanted, str):
        if wanted.strip().lower() == "full":
            return n
        parsed = _parse(wanted)
        if parsed is None:
            raise FidelityError(
                f'fidelity must be 1..{n}, "full", "ms-ssim>=X" or "bytes<=N", got {fidelity!r}'
            )
        wanted = parsed
    if isinstance(wanted, MsSsim):
        return _by_quality(wanted, m)
    if isinstance(wanted, ByteBudget):
        return _by_bytes(wanted, m)
    if isinstance(wanted, bool) or not hasattr(wanted, "__index__"):
        raise FidelityError(f"fidelity must be an integer in 1..{n} or a string, got {fidelity!r}")
    k = wanted.__index__()
    if not 1 <= k <= n:
        raise FidelityError(f"fidelity must be in 1..{n}, got {k}")
    return k


def resolve_fetch(fidelity: Fidelity, m: Manifest) -> tuple[int, bool]:
    """Return the group number and whether the source file itself is wanted."""
    if isinstance(fidelity, str) and fidelity.strip().lower() == ORIGINAL:
        return m.n_groups, True
    return resolve(fidelity, m), False


def _by_quality(target: MsSsim, m: Manifest) -> int:
    if not m.quality.n_images:
        raise FidelityError("no quality was measured when this dataset was converted")
    for k, value in enumerate(m.quality.ms_ssim, 1):
        if value >= target.at_least:
            return k
    raise FidelityError(
        f"MS-SSIM must be at most {m.quality.ms_ssim[-1]:.4f} (full fidelity), "
        f"got {target.at_least}"
    )


def _by_bytes(budget: ByteBudget, m: Manifest) -> int:
    best, total = 0, 0
    for k, group in enumerate(m.totals.groups, 1):
        total += group
        if total <= budget.at_most * max(1, m.n_images):
            best = k
    if best == 0:
        mean = m.totals.groups[0] / max(1, m.n_images)
        raise FidelityError(
            f"byte budget must be at least {mean:.0f} per image (fidelity 1), got {budget.at_most}"
        )
    return best
