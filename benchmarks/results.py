"""Figures with units and bounds, and the JSON of a run.

{"name": "engine", "commit": "8df486f...", "python": "3.11.7", "cpu_count": 2,
 "options": {"rounds": 5, "seed": 0, ...}, "rounds": 5,
 "figures": [{"name": "CPU per sample, memory", "value": 38.2, "unit": "us", "at_most": null,
              "at_least": null, "detail": "", "runs": [38.0, 38.2, 39.1]}, ...]}
"""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).absolute().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that was measured."""

    name: str
    value: float
    unit: str = ""
    """Empty for a ratio."""
    at_most: float | None = None
    at_least: float | None = None
    detail: str = ""
    runs: tuple[float, ...] = ()
    """The values of which `value` is the median."""

    @property
    def ok(self) -> bool:
        """Whether the value lies within its bounds; NaN lies in none."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.at_least), ("at most", self.at_most))
            if bound is not None
        ]
        verdict = ("ok  " if self.ok else "FAIL") if bounds else "    "
        value = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.4g}"
        said = f" ({', '.join(bounds)})" if bounds else ""
        detail = f"; {self.detail}" if self.detail else ""
        return f"{verdict} {self.name}: {value} {self.unit}".rstrip() + said + detail


@dataclass(slots=True, kw_only=True)
class Report:
    """The figures of one run."""

    name: str
    options: Mapping[str, object]
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float | Sequence[float],
        unit: str = "",
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        detail: str = "",
        shown: bool = True,
    ) -> None:
        """Add a figure and print it.

        Args:
            name: Of the figure, unique in its run.
            value: A number, or those of several rounds, of which the median counts.
            unit: Empty for a ratio.
            at_most: What it may be at most; the run fails if it is more.
            at_least: What it must be at least.
            detail: What explains it.
            shown: Print it; a program that prints a table of its own does not.
        """
        runs: tuple[float, ...] = ()
        if not isinstance(value, int | float):
            runs, value = tuple(value), middle(value)
        found = Figure(
            name=name,
            value=float(value),
            unit=unit,
            at_most=at_most,
            at_least=at_least,
            detail=detail,
            runs=runs,
        )
        self.figures.append(found)
        if shown or not found.ok:
            print(found, flush=True)

    def as_json(self) -> str:
        """Return the run as JSON; what is not a finite number is null."""
        out = {
            "name": self.name,
            "commit": commit(),
            "python": platform.python_version(),
            "cpu_count": os.cpu_count(),
            "options": {k: v if isinstance(v, int | float | None) else str(v)
                        for k, v in self.options.items()},
            "rounds": self.options.get("rounds", 1),
            "figures": [asdict(f) | {"value": f.value if math.isfinite(f.value) else None}
                        for f in self.figures],
        }  # fmt: skip
        return json.dumps(out, indent=1)

    def finish(self, target: Path | None) -> int:
        """Write the JSON if it has a target; return the exit code, 1 for a figure out of bounds."""
        if target is not None:
            target.write_text(f"{self.as_json()}\n")
        bounded = [f for f in self.figures if f.at_most is not None or f.at_least is not None]
        failed = sum(not f.ok for f in bounded)
        if bounded:
            print(f"{self.name}: {len(bounded) - failed} of {len(bounded)} within their bounds")
        return 1 if failed else 0


def middle(values: Sequence[float]) -> float:
    """Return the median; nan without values."""
    return median(values) if values else math.nan


def numbers(text: str) -> list[int]:
    """Parse an option of whole numbers, separated by commas."""
    return [int(number) for number in text.split(",")]


def commit() -> str:
    """Return the commit of the working tree, with `-dirty` after it if that has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
