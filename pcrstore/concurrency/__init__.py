"""The concurrency wing."""

from pcrstore.concurrency.coroutines import NativeCalls, each, run_on
from pcrstore.concurrency.locks import ForkSafeLock
from pcrstore.concurrency.per_process import PerProcess
from pcrstore.concurrency.processes import ordered_map, usable_cores
from pcrstore.concurrency.shared import SharedNumber, share_with_started
from pcrstore.concurrency.threads import POLL_SECONDS, StopFlag, Threads

__all__ = [
    "POLL_SECONDS",
    "ForkSafeLock",
    "NativeCalls",
    "PerProcess",
    "SharedNumber",
    "StopFlag",
    "Threads",
    "each",
    "ordered_map",
    "run_on",
    "share_with_started",
    "usable_cores",
]
