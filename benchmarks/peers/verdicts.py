"""What `peers` found in a case, and what it must be."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.peers.arena import FREE, LATE, WAN, Contestant, Limit, Runs
from benchmarks.results import Report

Key = tuple[str, int]
"""Scan script and fidelity."""


@dataclass(slots=True)
class Found:
    """What one case gave."""

    runs: dict[str, Runs]
    bulk: list[float] = field(default_factory=list)
    limits: dict[Key, list[Limit]] = field(default_factory=dict)

    def bulk_rate(self) -> float:
        """Return bytes per second."""
        return statistics.median(self.bulk)

    def limit(self, key: Key) -> Limit:
        """Return the medians of a limit."""
        found = self.limits[key]
        return Limit(
            images_per_s=statistics.median(x.images_per_s for x in found),
            mean_bytes=found[0].mean_bytes,
        )


def key_of(who: Contestant) -> Key:
    """Return what a contestant is limited by."""
    return ("sa5" if who.is_peer else who.dataset, who.fidelity)


class Verdicts:
    """What the figures must be."""

    def __init__(self, report: Report, found: dict[str, Found], who: Sequence[Contestant]) -> None:
        self._report = report
        self._found = found
        self._who = who

    def speed(self, case: str, name: str) -> float:
        """Return images per second of a cold epoch."""
        return self._found[case].runs[name].median("whole_images_per_s")

    def best_peer(self, case: str) -> float:
        """Return images per second of the fastest peer."""
        found = (self.speed(case, w.name) for w in self._who if w.is_peer)
        return max((speed for speed in found if not math.isnan(speed)), default=math.nan)

    def against_peers(self, case: str, name: str, times: float) -> None:
        """Check a contestant against the best peer."""
        if case not in self._found or name not in self._found[case].runs:
            return
        ratio = self.speed(case, name) / self.best_peer(case)
        self._report.add(f"{case}: {name} / best peer", ratio, at_least=times)

    def every_row(self, case: str) -> None:
        """Note how those compare that decode what no crop shows, as the peers do."""
        for who in self._who:
            if who.every_row and case in self._found:
                ratio = self.speed(case, who.name) / self.best_peer(case)
                self._report.add(f"{case}: {who.name} / best peer", ratio)

    def limits(self, case: str) -> None:
        """Check pcrstore against memory, and the link where it has a limit."""
        found = self._found[case]
        for who in self._who:
            if who.is_peer or who.cached or who.scaled or who.every_row or not who.threads:
                continue
            limit = found.limit(key_of(who))
            link = found.bulk_rate() / limit.mean_bytes
            free = case == FREE
            runs = found.runs[who.name]
            # A link of user space takes of the cores on which memory alone was measured.
            others = 0.0 if free else statistics.median(runs.others or [0.0])
            memory = limit.images_per_s * (1 - others)
            bound = memory if free else min(link, memory)
            # First batch to last: the limits have no beginning either.
            share, least = runs.median("images_per_s") / bound, 0.9 if free else 0.95
            what = "memory" if bound == memory else "link"
            if others and bound == memory:
                what += f" less the {others:.0%} of the cores that server and link took"
            self._report.add(f"{case}: {who.name} / {what}", share, at_least=least)

    def first_batches(self, case: str) -> None:
        """Check that no first batch is later than the best peer's."""
        runs = self._found[case].runs
        firsts = (runs[w.name].median("first_batch") for w in self._who if w.is_peer)
        best = min((first for first in firsts if not math.isnan(first)), default=math.nan)
        for who in self._who:
            if who.threads and not who.cached and not who.every_row and not who.is_peer:
                first = runs[who.name].median("first_batch")
                self._report.add(
                    f"{case}: first batch of {who.name}", first, "s", at_most=best,
                    detail="the best peer's",
                )  # fmt: skip

    def failures(self, case: str) -> None:
        """Check that everything ran."""
        failed = {n: r.failures for n, r in self._found[case].runs.items() if r.failures}
        self._report.add(
            f"{case}: runs that failed", sum(map(len, failed.values())), at_most=0,
            detail=str(failed or ""),
        )  # fmt: skip

    def all(self) -> None:
        """Check everything that ran."""
        for case in self._found:
            self.failures(case)
        if any(w.is_peer for w in self._who):
            self.against_peers(WAN, "pcrstore k=3", 2.5)
            self.against_peers(WAN, "pcrstore k=5", 1.05)
            self.against_peers(LATE, "pcrstore k=3", 1.2)
            self.against_peers(FREE, "pcrstore k=3", 1.2)
            self.against_peers(FREE, "pcrstore spec5, full", 0.8)
            self.every_row(FREE)
            for case in self._found:
                self.first_batches(case)
        for case in self._found:
            self.limits(case)
