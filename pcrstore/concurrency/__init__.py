"""Threads, processes and coroutines, and objects that they share or must not share.

    coroutines    run_on           the result of a coroutine, for a plain thread
                  each             one coroutine for each of many items, a few at a time
    native_calls  NativeCalls      coroutines that wait for a native library: none of its threads is
                                   in Python when the interpreter ends
    threads       Threads          daemon threads with a queue, stopped before the interpreter ends
                  StopFlag         waits that end when the work is stopped
    processes     ordered_map      one function over many tasks in spawned workers, in order
    locks         ForkSafeLock     a lock that is free in a forked child
    per_process   PerProcess       an object that each process makes for itself: a client, a pool
    shared        SharedNumber     a number that a process shares with the workers it starts

The rules of this package: no lock survives a fork locked (`ForkSafeLock`); no socket and no thread
is used in a process that did not make it (`PerProcess`); before the interpreter ends, the threads
of `Threads` are stopped and waited for, 2 seconds at most (`Threads.end_all`), and so are the calls
of native libraries, 5 seconds at most (`NativeCalls.end`).

Examples:
    Three tasks of a conversion, each result in its place:

    >>> def adder(setting):
    ...     return lambda task: setting + task
    >>> list(ordered_map(adder, 10, iter([1, 2, 3]), n_workers=2, in_process=True))
    [11, 12, 13]

    A client that a forked child would make anew:

    >>> client = PerProcess(dict)
    >>> client.get() is client.get()
    True
"""

from pcrstore.concurrency.coroutines import each, run_on
from pcrstore.concurrency.locks import ForkSafeLock
from pcrstore.concurrency.native_calls import NativeCalls
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
