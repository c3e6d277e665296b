"""The retry loop: when a request is tried again, for how long, and when to give up.

    try --fails--> wait --try--fails--> wait ...... deadline: raise the last error
                   uniform(0, 0.1)      uniform(0, 0.2) ... never above max_delay   (full jitter)

Only a `RetryableError` is tried again; `pcrstore.storage.errors` decides what is one. No other loop
repeats a request that failed: clients switch off the retries of the libraries beneath, so that they
do not multiply. (Readers ask again for bytes that came and are wrong or late; see CONTRIBUTING.md.)
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pcrstore.errors import FormatError, OptionError, StoreError, TransientStoreError

__all__ = ["Backoff", "RetryPolicy", "RetryableError", "retry", "retry_async"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0
"""Time spent on one request after which a warning is logged: somebody may be waiting."""


class RetryableError(TransientStoreError):
    """A failure that is worth another try."""

    retry_after: float = 0.0
    """Seconds that the server asked us to wait."""
    max_tries: int | None = None
    """Number of tries after which to give up before the deadline."""
    patience: float | None = None
    """Seconds after which to give up, if that is before the deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Waits and deadline of one request, all its tries together. All times in seconds.

    The limit of one try grows with the bytes that it moves: 30 s without a byte, and 64 s more for
    a body of 1 MiB at `min_rate`.

    Examples:
        >>> RetryPolicy().attempt_limit(n_bytes=1 << 20, left=100.0)
        94.0
        >>> RetryPolicy(deadline=10.0).attempt_limit(n_bytes=0, left=3.0)
        3.0
    """

    deadline: float = 120.0
    """Time after the first try in which further tries may start."""
    stall: float = 30.0
    """Longest time without a byte, after which a try is given up."""
    connect: float = 10.0
    """Limit for making a connection."""
    unreachable: float = 10.0
    """Deadline where no connection can be made: a wrong host name should not take minutes."""
    first_delay: float = 0.1
    """Upper bound of the first wait; each further bound is twice the one before."""
    max_delay: float = 15.0
    """Upper bound of any wait."""
    max_short: int = 4
    """Tries for a body that is too short: it may be cut, or the object may really be shorter."""
    min_rate: float = 16 * 1024
    """Bytes per second below which a transfer counts as stalled."""

    def __post_init__(self) -> None:
        for field in ("deadline", "stall", "connect", "unreachable", "max_delay", "min_rate"):
            if not getattr(self, field) > 0:
                raise OptionError(f"{field} must be over 0 seconds, got {getattr(self, field)}")

    def attempt_limit(self, *, n_bytes: int, left: float) -> float:
        """Return the limit of one try that moves `n_bytes`, with `left` until the deadline."""
        return min(self.stall, left) + n_bytes / self.min_rate


class Backoff:
    """Tries of one request so far, and the wait before the next one."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.n_tries = 0
        self._start = time.monotonic()
        self._said = False

    def left(self) -> float:
        """Return the seconds until the deadline, never less than a millisecond."""
        return max(0.001, self.policy.deadline - (time.monotonic() - self._start))

    def delay_after(self, error: StoreError) -> float:
        """Return the wait before the next try.

        Raises:
            TransientStoreError: There is no time left, or no try.
            StoreError: `error` itself: it is not retryable.
        """
        self.n_tries += 1
        if not isinstance(error, RetryableError):
            raise error
        spent = time.monotonic() - self._start
        deadline = min(self.policy.deadline, error.patience or self.policy.deadline)
        # A shift beyond 30 is over any max_delay and would overflow in the end.
        bound = self.policy.first_delay * (1 << min(self.n_tries - 1, 30))
        delay = random.uniform(0, min(bound, self.policy.max_delay))  # noqa: S311 (not a secret)
        delay = max(delay, error.retry_after)
        used_up = error.max_tries is not None and self.n_tries >= error.max_tries
        if used_up or spent + delay >= deadline:
            plural = "" if self.n_tries == 1 else "s"
            note = f" (gave up after {self.n_tries} request{plural} in {spent:.1f} s)"
            raise TransientStoreError(f"{error}{note}") from error.__cause__
        if spent > _PATIENCE_SECONDS and not self._said:
            self._said = True
            _log.warning("%s; trying again for up to %.0f s", error, deadline - spent)
        return delay


def retry(
    attempt: Callable[[], T], policy: RetryPolicy, translate: Callable[[Exception], StoreError]
) -> T:
    """Call `attempt` until it returns, its error is final, or the deadline has passed.

    Args:
        attempt: One request.
        policy: Waits and deadline.
        translate: Makes our error from any that `attempt` raised, chained.
    """
    backoff = Backoff(policy)
    while True:
        try:
            return attempt()
        except FormatError:  # said of what is stored: it is so the next time, too
            raise
        except Exception as e:  # noqa: BLE001 (a library beneath may raise anything)
            error = translate(e)
        time.sleep(backoff.delay_after(error))


async def retry_async(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    translate: Callable[[Exception], StoreError],
    *,
    n_bytes: int = 0,
) -> T:
    """Like `retry`, and gives up on a try that stalls.

    Args:
        attempt: Starts one request.
        policy: Waits and deadline.
        translate: Makes our error from any that `attempt` raised, chained.
        n_bytes: Bytes that the request moves, for the stall limit.
    """
    backoff = Backoff(policy)
    while True:
        limit = policy.attempt_limit(n_bytes=n_bytes, left=backoff.left())
        try:
            async with asyncio.timeout(limit):
                return await attempt()
        except FormatError:  # as above
            raise
        except Exception as e:  # noqa: BLE001 (a library beneath may raise anything)
            error = translate(e)
        await asyncio.sleep(backoff.delay_after(error))
