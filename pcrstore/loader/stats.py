"""Counters of a loader that add up over workers, epochs and time.

Pure.
"""

from dataclasses import dataclass, fields
from typing import Self

__all__ = ["Signals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Counters of a loader since it was made; the difference of two is what happened between.

    Times are sums over threads and processes, but for `seconds` and `stall_seconds`, which are the
    consumer's.
    """

    samples: int = 0
    """Samples handed to the consumer."""
    batches: int = 0
    seconds: float = 0.0
    """Time spent inside epochs, from `iter(loader)` to the end."""
    stall_seconds: float = 0.0
    """Part of `seconds` in which the consumer waited for a batch."""
    requests: int = 0
    """GETs of scan groups and of the index."""
    bytes: int = 0
    """Bytes of the bodies of these GETs."""
    retries: int = 0
    """Requests that failed in a way worth another try."""
    skipped: int = 0
    """Images that could not be decoded, in whose rows others are repeated."""
    hedges: int = 0
    """Requests made a second time because the first was slow."""
    cache_hits: int = 0
    """Scan groups of records that came from the disk cache."""
    cache_bytes: int = 0
    fetch_seconds: float = 0.0
    """Time spent reading records, checking them and cutting them into files."""
    decode_seconds: float = 0.0
    """Time spent decoding, cropping and resizing."""
    queue_depth: int = 0
    """Batches that were ready when the last one was taken, summed over workers."""

    def __add__(self, other: Self) -> Self:
        return type(self)(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def __sub__(self, other: Self) -> Self:
        return type(self)(
            **{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)}
        )

    def __str__(self) -> str:
        """Return one line of rates, stall and errors; "-" for a rate over no time or samples."""
        parts = [
            f"{_rate(self.samples, self.seconds, '.0f')} images/s",
            f"{_rate(self.bytes / 1e6, self.seconds, '.1f')} MB/s",
            f"{_rate(self.bytes / 1e3, self.samples, '.1f')} kB/image",
            f"{self.requests} GETs",
            f"stalled {_rate(100 * self.stall_seconds, self.seconds, '.0f')} %",
            f"queue {self.queue_depth}",
        ]
        counts = {"retries": self.retries, "hedges": self.hedges, "skipped": self.skipped}
        parts += [f"{n} {name}" for name, n in counts.items() if n]
        if self.cache_hits:
            parts.append(f"{self.cache_bytes / 1e6:.1f} MB from the cache")
        return ", ".join(parts)


def _rate(amount: float, per: float, form: str) -> str:
    """Return an amount per second or sample; "-" per nothing."""
    return format(amount / per, form) if per else "-"
