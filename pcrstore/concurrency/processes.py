"""One function run over many tasks, in order, with a bounded number in flight.

    tasks 0 1 2 3 4 5 6 ... --> 2 workers, 6 tasks in flight --> results 0 1 2 3 4 5 6 ...

With one worker the tasks run in the caller's thread, with more in spawned processes, which inherit
no client and no lock of the parent. If one of them dies, as by a decoder that crashes, the others
are ended and `ordered_map` raises an error; the caller's process lives, and may start again.
Tasks that need the memory of this process (a `memory://` source) run in threads instead.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import Any, TypeVar

from pcrstore.errors import PcrstoreError

__all__ = ["ordered_map", "usable_cores"]

Setting = TypeVar("Setting")
Task = TypeVar("Task")
Result = TypeVar("Result")

_WINDOW = 3
"""Tasks in flight per worker: one running, one waiting, one finished and not yet taken."""

_DIED = "a worker process died (out of memory, or killed)"
_NEVER_RAN = (
    "the worker processes died before they did anything: a script must start them under "
    '`if __name__ == "__main__":`, for each worker imports it'
)

_run: Callable[[Any], object] | None = None
"""The function of this worker process, made once by `_prepare`. One pool has one function, so that
the types of tasks and results are those of `ordered_map`."""


def usable_cores() -> int:
    """Return the cores that this process may use, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepare(make: Callable[[Setting], Callable[[Task], Result]], setting: Setting) -> None:
    global _run  # noqa: PLW0603 - a worker process has one job
    _run = make(setting)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: BaseProcess) -> None:
    """End this worker when its parent was killed: the queue of tasks would never close."""
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _unreachable_by_interrupts() -> Iterator[None]:
    """Block SIGINT while workers are started; they inherit the blocked signal.

    Ctrl-C reaches every process of a terminal. A worker that is still importing modules would print
    a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(task: Task) -> object:
    if _run is None:
        raise AssertionError("a worker runs tasks after _prepare alone")
    return _run(task)


def ordered_map(
    make: Callable[[Setting], Callable[[Task], Result]],
    setting: Setting,
    tasks: Iterator[Task],
    *,
    n_workers: int,
    in_process: bool = False,
    if_died: str = _DIED,
    if_never_ran: str = _NEVER_RAN,
) -> Generator[Result, None, None]:
    """Yield `make(setting)(task)` for every task, in order.

    Args:
        make: Builds the function, once in each worker; importable, as processes are spawned.
        setting: Argument of `make`; picklable unless `in_process`.
        tasks: Taken lazily, at most three per worker ahead of the results.
        n_workers: Number of workers; 1 runs the tasks in this thread.
        in_process: Use threads as workers.
        if_died: Message of the error for a worker that died after the first result.
        if_never_ran: The same before the first result, as where processes cannot be spawned.

    Raises:
        PcrstoreError: A worker died.
    """
    if n_workers == 1:
        yield from map(make(setting), tasks)
        return
    window = _WINDOW * n_workers
    if in_process:
        run = make(setting)
        threads = ThreadPoolExecutor(n_workers)
        yield from _drain(threads, lambda task: threads.submit(run, task), tasks, window)
        return
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(n_workers, context, _prepare, (make, setting))
    alive = processes._processes  # noqa: SLF001 - terminate_workers() came in Python 3.14

    def submit(task: Task) -> "Future[Result]":
        with _unreachable_by_interrupts():
            return processes.submit(_call, task)  # type: ignore[arg-type]  # returns what make's function does

    n_done = 0
    try:
        # Closed explicitly: workers end as soon as the caller stops.
        with contextlib.closing(_drain(processes, submit, tasks, window, alive)) as results:
            for result in results:
                yield result
                n_done += 1
    except BrokenProcessPool as e:
        raise PcrstoreError(if_died if n_done else if_never_ran) from e


def _drain(
    pool: Executor,
    submit: Callable[[Task], "Future[Result]"],
    tasks: Iterator[Task],
    window: int,
    workers: Mapping[int, BaseProcess] = MappingProxyType({}),
) -> Generator[Result, None, None]:
    """Yield the results in order; if the caller stops early, end the workers at once."""
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            pending.append(submit(task))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        doomed = list(workers.values()) if pending else []
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in doomed:  # a task has no effect but its result
            worker.terminate()
