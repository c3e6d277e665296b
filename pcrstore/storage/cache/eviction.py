"""The choice of entries that make room for others: those that are not read any more.

    gap     the longest time between two uses of an entry that hits have shown lately
    stale   an entry that was not used for twice the gap; before the first hit, one that was not
            used since this cache was opened

Stale entries are evicted, the least recently used first. Where there are none, a new body is not
stored. The reason is that an epoch reads every record once, in another order each time: the entry
that was used least recently is needed next, and a plain LRU cache of half the data has 14 % of hits
where this one has 50 %.
"""

import math
from collections.abc import Sequence
from typing import Final

from pcrstore.storage.cache.files import CachedFile

__all__ = ["Eviction"]

_LOW_WATER: Final = 0.9
"""Low-water mark of eviction, as a share of the limit: a sweep looks at every file, so that one has
to make room for many bodies. It starts only after the rest of the limit, 10 %, was refused since
this cache was opened, by all processes together: by then hits have shown which entries are in use.

With a limit of 100 kB, full, and bodies of 1 kB: the first nine are refused, the tenth starts a
sweep. It evicts stale entries until 89 kB are left, and the tenth body makes 90 kB."""

_STALE_GAPS: Final = 2.0
"""Gaps without a use after which an entry is stale. Between two uses in shuffled epochs lie two
epochs at most, and the longest gap that hits have shown is nearly that."""

_FADE: Final = 0.999
"""Factor on the longest gap at each hit after a shorter one. A gap of 60 hours, over a weekend, is
down to one hour after 4,100 hits: 0.999^4,100 = 1/60."""


class Eviction:
    """One process's knowledge of uses, and the entries that it gives up.

    Args:
        limit: Bytes.
        opened: Time at which this cache was opened. Seconds since 1970.
        fade: Factor on the longest gap at each hit after a shorter one.

    Examples:
        Hits have shown a gap of 50 seconds: at 1,000 an entry is stale that was used before 900.

        >>> eviction = Eviction(10_000, opened=600.0)
        >>> eviction.stale_before(now=1000.0)
        600.0
        >>> eviction.note_hit(50.0)
        >>> eviction.stale_before(now=1000.0)
        900.0
    """

    def __init__(self, limit: int, *, opened: float, fade: float = _FADE) -> None:
        self.opened = opened
        self.fade = fade
        self._limit = limit
        self._gap = 0.0
        """Longest gap that hits have shown lately; 0 before the first. Seconds."""
        self._refused_before = math.inf
        """Bytes that the ledger has as refused, and that were refused before this was opened."""

    @property
    def low_water(self) -> float:
        """Bytes to which a sweep makes room."""
        return self._limit * _LOW_WATER

    def note_hit(self, gap: float) -> None:
        """Note a use, `gap` seconds after the last one of the same entry."""
        self._gap = max(gap, self._gap * self.fade)

    def note_refused(self, refused: int) -> None:
        """Note the bytes refused that the ledger has, to tell those since this was opened.

        The ledger had 50 when this was opened, and has 58 now: 8 were refused since. If it has 3,
        another process set it to 0 meanwhile, and all 3 were refused since.
        """
        self._refused_before = min(self._refused_before, refused)

    def is_due(self, refused: int) -> bool:
        """Say whether so much was refused since this was opened that a sweep is worth its time."""
        return refused - self._refused_before >= self._limit * (1 - _LOW_WATER)

    def stale_before(self, now: float) -> float:
        """Return the time before which an entry must have been used last to be stale.

        With a longest gap of an hour that is two hours ago.
        """
        return now - _STALE_GAPS * self._gap if self._gap else self.opened

    def evicted(
        self, bodies: Sequence[CachedFile], used: int, size: int, *, now: float
    ) -> list[CachedFile]:
        """Return the entries that make room for `size` bytes, the least recently used first.

        Where even the files alone exceed the limit, as after the limit was lowered, entries in use
        are among them.

        Args:
            bodies: All entries.
            used: Their bytes, with those of the bodies that are being written.
            size: Bytes of the new body.
            now: Seconds since 1970.
        """
        if used + size <= self._limit:
            return []
        target, stale, gone = self.low_water - size, self.stale_before(now), []
        for file in sorted(bodies, key=lambda file: file.mtime):
            if not (used > self._limit or (used > target and file.mtime < stale)):
                break
            gone.append(file)
            used -= file.n_bytes
        return gone
