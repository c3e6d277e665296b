"""Coroutines run from plain threads: clients are asynchronous inside, pcrstore is not.

caller's thread --run_on--> loop's thread: each(items, limit) --> at most `limit` at a time
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

__all__ = ["each", "run_on"]

T = TypeVar("T")
R = TypeVar("R")


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, R]) -> R:
    """Return what the coroutine returns on another thread's loop; an interrupt here cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def each(items: Sequence[T], work: Callable[[T], Awaitable[R]], *, limit: int) -> list[R]:
    """Return `work` of every item, in order. The first failure cancels the rest and is raised."""
    slots = asyncio.Semaphore(limit)

    async def one(item: T) -> R:
        async with slots:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
