"""The concurrency wing."""

from pcrstore.concurrency.coroutines import NativeCalls, each, run_on
from pcrstore.concurrency.processes import ordered_map, usable_cores
from pcrstore.concurrency.threads import POLL_SECONDS, StopFlag, Threads

__all__ = [
    "POLL_SECONDS",
    "NativeCalls",
    "StopFlag",
    "Threads",
    "each",
    "ordered_map",
    "run_on",
    "usable_cores",
]
