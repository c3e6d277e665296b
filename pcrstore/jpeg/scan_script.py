"""Scan scripts: the coefficients that each scan of an image carries, and the scans of each group.

Pure. A script is written for the kinds of component, not for one image, so that every image of a
dataset has the same groups and group k means the same quality in each.

    # comment
    [dc]                          a group and its label
    *: 0-0, 0, 1                  components: Ss-Se, Ah, Al
    [low]
    Y: 1-9, 0, 2                  Y: grey; R, G, B; C, M, Y, K; Y and K of YCCK
    Cb: 1-9, 0, 2                 Cb or Cr: that component of YCbCr and YCCK, nothing of others
    Cr: 1-9, 0, 2                 C: Cb and Cr;   *: all
    [mid]
    Y: 6-14, 0, 2 unless chroma   only for images without Cb and Cr; `if chroma`: only with

Rules and section numbers are from ITU-T T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pcrstore.errors import ScriptError
from pcrstore.jpeg.markers import MAX_SCANS, ColourModel, Frame

__all__ = ["BUILTIN", "DEFAULT", "MAX_GROUPS", "ScanSpec", "Script", "builtin", "parse_script"]

MAX_GROUPS: Final = 32
"""Each group costs 8 bytes per image in the record header, which has 12 bytes and, per image, 8 for
each group and a bit: 256 bytes and a bit for 32 groups, 40 and a bit for the five of `DEFAULT`."""
MAX_AL = 10
"""T.81 allows 13, but libjpeg (jcmaster.c) writes no more than 10 for 8-bit samples."""
MAX_TEXT = 1 << 16
"""Characters. A script is read back from a manifest, so its size is bounded."""

_GROUP = re.compile(r"\[([a-z0-9-]{1,32})\]", re.ASCII)
_LINE = re.compile(
    r"(Y|C|Cb|Cr|\*)\s*:\s*(\d{1,2})\s*-\s*(\d{1,2})\s*,\s*(\d{1,2})\s*,\s*(\d{1,2})"
    r"(?:\s+(if|unless)\s+chroma)?",
    re.ASCII,
)
_UNSENT = -1
_SELECTED: Final = {
    "Y": ("Y",),
    "Cb": ("Cb",),
    "Cr": ("Cr",),
    "C": ("Cb", "Cr"),
    "*": ("Y", "Cb", "Cr"),
}
"""Kinds of component that each word before the colon stands for."""
_LARGEST: Final = [16] * 4
"""Blocks per MCU of four components of which a DC step makes most scans: one for each (B.2.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSpec:
    """One scan of one image (B.2.3)."""

    components: tuple[int, ...]
    """Positions in the frame, ascending."""
    ss: int
    se: int
    ah: int
    al: int
    group: int
    """Group that holds it, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of a script."""

    group: int
    """Group that holds it, from 0."""
    select: str
    """Y, Cb, Cr, C or *."""
    ss: int
    se: int
    ah: int
    al: int
    chroma: bool | None = None
    """Only for images with (True) or without (False) Cb and Cr; None: for all."""

    def __str__(self) -> str:
        condition = {None: "", True: " if chroma", False: " unless chroma"}[self.chroma]
        return f"{self.select}: {self.ss}-{self.se}, {self.ah}, {self.al}{condition}"

    def kinds(self, *, chroma: bool) -> tuple[str, ...]:
        """Return those of Y, Cb and Cr that the step sends of an image with or without chroma."""
        if self.chroma not in (None, chroma):
            return ()
        return tuple(kind for kind in _SELECTED[self.select] if chroma or kind == "Y")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Scans in groups, legal for every colour model; made by `parse_script`."""

    name: str
    labels: tuple[str, ...]
    """One for each group, in order."""
    steps: tuple[Step, ...]
    """In order of transmission, so of group."""

    @property
    def n_groups(self) -> int:
        """Number of groups, 1 to 32."""
        return len(self.labels)

    @property
    def text(self) -> str:
        """The script in canonical form: `parse_script(text, name=name)` equals this script."""
        lines: list[str] = []
        for group, label in enumerate(self.labels):
            lines.append(f"[{label}]")
            lines.extend(str(step) for step in self.steps if step.group == group)
        return "\n".join(lines) + "\n"

    def expand(self, frame: Frame, model: ColourModel) -> tuple[ScanSpec, ...]:
        """Return the scans of an image, ordered by group.

        A DC line becomes one interleaved scan, or several where more than ten blocks would make a
        unit (B.2.3); an AC line becomes one scan for each component (G.1.1.1.1).
        """
        sizes = [c.h * c.v for c in frame.components]
        return tuple(_expand(self.steps, sizes, chroma=model.has_chroma))


def parse_script(text: str, *, name: str = "custom") -> Script:
    """Read a script and check it for images with and without chroma.

    Raises:
        ScriptError: A line that is not of the form above, or a script that no decoder need accept;
            the message names the line and the rule.
    """
    if len(text) > MAX_TEXT:
        raise ScriptError(f"script {name}: at most {MAX_TEXT} characters, got {len(text)}")
    labels: list[str] = []
    steps: list[Step] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.partition("#")[0].strip(" \t\r")
        if not stripped:
            continue
        where = f"script {name}, line {number}"
        if stripped.startswith("["):
            labels.append(_label(stripped, labels, where))
        elif not labels:
            raise ScriptError(f"{where}: a group, like [dc], expected before the first scan")
        else:
            steps.append(_step(stripped, len(labels) - 1, where))
            numbers.append(number)
    if not 1 <= len(labels) <= MAX_GROUPS:
        raise ScriptError(f"script {name}: 1 to {MAX_GROUPS} groups expected, got {len(labels)}")
    for chroma in (True, False):
        _check(steps, numbers, labels, name=name, chroma=chroma)
    n_scans = max(
        sum(1 for _ in _expand(steps, _LARGEST, chroma=chroma)) for chroma in (True, False)
    )
    if n_scans > MAX_SCANS:
        raise ScriptError(
            f"script {name}: at most {MAX_SCANS} scans for four components, got {n_scans}"
        )
    return Script(name=name, labels=tuple(labels), steps=tuple(steps))


def builtin(name: str) -> Script:
    """Return a script of `BUILTIN` by its name.

    Raises:
        ScriptError: There is none of that name.
    """
    try:
        return BUILTIN[name]
    except KeyError:
        raise ScriptError(f"script must be one of {', '.join(BUILTIN)}, got {name!r}") from None


def _expand(steps: Iterable[Step], sizes: Sequence[int], *, chroma: bool) -> Iterator[ScanSpec]:
    kind_of = ("Y", "Cb", "Cr", "Y") if chroma else ("Y",) * 4
    for step in steps:
        kinds = step.kinds(chroma=chroma)
        selected = [i for i in range(len(sizes)) if kind_of[i] in kinds]
        for components in (
            _interleaved(selected, sizes) if step.ss == 0 else [(i,) for i in selected]
        ):
            yield ScanSpec(
                components=components,
                ss=step.ss,
                se=step.se,
                ah=step.ah,
                al=step.al,
                group=step.group,
            )


def _interleaved(selected: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Split into scans of at most ten blocks per unit; a component alone may be larger (B.2.3)."""
    scans: list[tuple[int, ...]] = []
    for i in selected:
        if scans and sum(sizes[j] for j in scans[-1]) + sizes[i] <= 10:
            scans[-1] = (*scans[-1], i)
        else:
            scans.append((i,))
    return scans


def _label(line: str, labels: Sequence[str], where: str) -> str:
    match = _GROUP.fullmatch(line)
    if match is None:
        raise ScriptError(f"{where}: a label of a-z, 0-9 and - in brackets expected, got {line!r}")
    if match[1] in labels:
        raise ScriptError(f"{where}: labels must be unique, got another [{match[1]}]")
    return match[1]


def _step(line: str, group: int, where: str) -> Step:
    """Read one line and check the rules that need no other line (table B.3, G.1.1.1)."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ScriptError(f"{where}: a scan like 'Y: 1-9, 0, 2' expected, got {line!r}")
    ss, se, ah, al = map(int, match.groups()[1:5])
    if ss == 0 != se:
        raise ScriptError(
            f"{where}: DC and AC are sent apart (T.81 G.1.1.1.1), so 0-0 expected, got {ss}-{se}"
        )
    if not ss <= se <= 63:
        raise ScriptError(f"{where}: Ss <= Se <= 63 expected (T.81 B.2.3), got {ss}-{se}")
    if al > MAX_AL:
        raise ScriptError(f"{where}: Al of 0 to {MAX_AL} expected (libjpeg's limit), got {al}")
    if ah not in (0, al + 1):
        raise ScriptError(
            f"{where}: Ah of 0 in a first scan or Al + 1 = {al + 1} in a refinement expected"
            f" (T.81 G.1.1.1.2), got {ah}"
        )
    chroma = {None: None, "if": True, "unless": False}[match[6]]
    return Step(group=group, select=match[1], ss=ss, se=se, ah=ah, al=al, chroma=chroma)


def _check(
    steps: Sequence[Step], numbers: Sequence[int], labels: Sequence[str], *, name: str, chroma: bool
) -> None:
    """Follow each coefficient's Al through the scans of an image with or without chroma."""
    image = "an image with chroma" if chroma else "an image without chroma"
    kinds = _SELECTED["*"] if chroma else _SELECTED["Y"]
    sent = {kind: [_UNSENT] * 64 for kind in kinds}
    for step, number in zip(steps, numbers, strict=True):
        for kind in step.kinds(chroma=chroma):
            where = f"script {name}, line {number}, {kind} of {image}"
            if step.ss and sent[kind][0] == _UNSENT:
                raise ScriptError(f"{where}: DC expected before AC (T.81 G.1.1.1.1)")
            for k in range(step.ss, step.se + 1):
                _check_order(step, k, sent[kind][k], where)
                sent[kind][k] = step.al
    for kind in kinds:
        for k, al in enumerate(sent[kind]):
            if al:
                got = "it is never sent" if al == _UNSENT else f"it stops at {al}"
                raise ScriptError(
                    f"script {name}: coefficient {k} of {kind} of {image} must reach Al 0, {got}"
                )
    for group, label in enumerate(labels):
        if not any(s.group == group and s.kinds(chroma=chroma) for s in steps):
            raise ScriptError(f"script {name}: group [{label}] is empty for {image}")


def _check_order(step: Step, k: int, al: int, where: str) -> None:
    if step.ah == 0 and al != _UNSENT:
        raise ScriptError(f"{where}: coefficient {k} was sent before; Ah of {al} expected, got 0")
    if step.ah and al == _UNSENT:
        raise ScriptError(f"{where}: coefficient {k} needs a first scan, with Ah 0, got {step.ah}")
    if step.ah and step.ah != al:
        raise ScriptError(
            f"{where}: coefficient {k} was sent to Al {al}, so Ah of {al} expected"
            f" (T.81 G.1.1.1.2), got {step.ah}"
        )


_SA5 = """
[dc]
*: 0-0, 0, 1
[low]
*: 1-9, 0, 2
[high]
*: 10-63, 0, 2
[refine-1]
*: 1-63, 2, 1
[refine-0]
*: 1-63, 1, 0
*: 0-0, 1, 0
"""

_SPEC5 = """
[dc]
*: 0-0, 0, 0
[ac-1-5]
*: 1-5, 0, 0
[ac-6-14]
*: 6-14, 0, 0
[ac-15-27]
*: 15-27, 0, 0
[ac-28-63]
*: 28-63, 0, 0
"""

_AL3 = """
[dc]
*: 0-0, 0, 1
[ac]
*: 1-63, 0, 3
[refine-2]
*: 1-63, 3, 2
[refine-1]
*: 1-63, 2, 1
[refine-0]
*: 1-63, 1, 0
*: 0-0, 1, 0
"""

# libjpeg's jpeg_simple_progression: for YCbCr its scans are {1}, {2}, {3, 4}, {5}, {6}, {7..10}.
_STANDARD = """
[dc]
*: 0-0, 0, 1
[low]
Y: 1-5, 0, 2
[chroma]
C: 1-63, 0, 1
Y: 6-14, 0, 2 unless chroma
[high]
Y: 6-63, 0, 2 if chroma
Y: 15-63, 0, 2 unless chroma
[refine-1]
Y: 1-63, 2, 1
[refine-0]
*: 0-0, 1, 0
C: 1-63, 1, 0
Y: 1-63, 1, 0
"""

# jpeg_simple_progression with a group for each scan. An image without chroma has six such scans:
# the first AC scan and the last refinement of its components are cut into bands.
_STANDARD_10 = """
[dc]
*: 0-0, 0, 1
[low]
Y: 1-5, 0, 2
[cr]
Cr: 1-63, 0, 1
Y: 6-9, 0, 2 unless chroma
[cb]
Cb: 1-63, 0, 1
Y: 10-20, 0, 2 unless chroma
[high]
Y: 6-63, 0, 2 if chroma
Y: 21-63, 0, 2 unless chroma
[refine-1]
Y: 1-63, 2, 1
[dc-refine-0]
*: 0-0, 1, 0
[cr-refine-0]
Cr: 1-63, 1, 0
Y: 1-9, 1, 0 unless chroma
[cb-refine-0]
Cb: 1-63, 1, 0
Y: 10-20, 1, 0 unless chroma
[refine-0]
Y: 1-63, 1, 0 if chroma
Y: 21-63, 1, 0 unless chroma
"""

BUILTIN: dict[str, Script] = {
    name: parse_script(text, name=name)
    for name, text in {
        "sa5": _SA5,
        "spec5": _SPEC5,
        "al3": _AL3,
        "standard": _STANDARD,
        "standard-10": _STANDARD_10,
    }.items()
}
"""Scripts that come with pcrstore, by name.

Cumulative share of an ImageNet photo's bytes, and MS-SSIM, for each group:

    sa5       7 25 39 60 100 %      .79 .97 .99 .996 1       the default
    al3       7 25 39 62 100 %      .79 .98 .99 .996 1       better for sources of high quality only
    spec5     8 31 56 77 100 %      .80 .95 .98 .995 1       decodes in half the time: no refinement
    standard  7 16 27 44 60 100 %   .79 .95 .95 .99 .996 1   libjpeg's own scans, in six groups

    standard-10   7 16 21 27 44 60 61 68 75 100 %            the same, each a group of its own
                  .79 .95 .95 .95 .99 .996 .996 .996 .996 1
"""

DEFAULT = BUILTIN["sa5"]
"""The script of a conversion that names none."""
