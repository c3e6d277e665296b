"""What the contestants' drivers share: how they are asked, and how an epoch is timed.

A driver is a process, `python -m benchmarks.peers.driver_NAME '{"endpoint": ..., ...}'`. It prints
one line of JSON and runs in the peers' environment, where pcrstore is on PYTHONPATH.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from typing import Protocol, Self
from unittest import mock
from urllib.parse import urlsplit

from pcrstore.image import rendering


class Countable(Protocol):
    """A batch of a tensor or an array: what has a length."""

    def __len__(self) -> int:
        """Return how many images it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a driver is asked to do."""

    endpoint: str = ""
    dataset: str = ""
    """Folder in the bucket, or a local one."""
    n_images: int = 0
    """How many of its images an epoch has; 0 is all."""
    work: str = ""
    """A folder of this run's own, empty."""
    epochs: int = 2
    """The first is cold, the others are warm."""
    fidelity: int = 0
    """0 is full, or the original."""
    num_workers: int = 2
    n_threads: int | None = None
    batch_size: int = 64
    size: int = 224
    seed: int = 0
    cached: bool = False
    every_row: bool = False
    """pcrstore decodes rows below a crop too, as the peers do."""
    seconds: float = 0.0
    more: dict[str, object] = field(default_factory=dict)

    @classmethod
    def from_argv(cls) -> Self:
        """Return what this process was asked."""
        return cls(**json.loads(sys.argv[1]))

    def argv(self) -> str:
        """Return it as a driver's argument."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What was seen of one epoch."""

    n_images: int
    first_batch: float
    """Seconds from before the dataset was opened (later epochs: before the iterator was made)."""
    images_per_s: float
    """From the first batch to the last one, the first not counted."""
    whole_images_per_s: float
    """From the start, every image counted."""
    requests: int
    bytes: int
    """Of bodies that the server sent, until the last batch."""


def counters(endpoint: str) -> tuple[int, int]:
    """Return requests and bytes since the last call."""
    url = urlsplit(endpoint)
    connection = HTTPConnection(url.hostname or "", url.port or 80, timeout=30)
    connection.request("GET", "/_stats?reset=1")
    n, size = connection.getresponse().read().split()
    connection.close()
    return int(n), int(size)


def run(asked: Asked, open_loader: Callable[[], Iterable[tuple[Countable, object]]]) -> None:
    """Time epochs and print them.

    Args:
        asked: What was asked.
        open_loader: Returns what yields batches of images and labels; called once, timed.
    """
    epochs: list[Epoch] = []
    gc.collect()
    if asked.endpoint:
        counters(asked.endpoint)
    start = time.perf_counter()
    loader = open_loader()
    for _ in range(asked.epochs):
        epochs.append(_epoch(asked, loader, start))
        start = time.perf_counter()
    print(json.dumps({"epochs": [asdict(e) for e in epochs]}))


def _epoch(asked: Asked, loader: Iterable[tuple[Countable, object]], start: float) -> Epoch:
    n, n_first, first, last = 0, 0, start, start
    for images, _labels in loader:
        last = time.perf_counter()
        if not n:
            n_first, first = len(images), last
        n += len(images)
    if not n:
        raise SystemExit("the epoch was empty")
    requests, size = counters(asked.endpoint) if asked.endpoint else (0, 0)
    return Epoch(
        n_images=n,
        first_batch=first - start,
        images_per_s=(n - n_first) / (last - first) if last > first else 0.0,
        whole_images_per_s=n / (last - start),
        requests=requests,
        bytes=size,
    )


def every_row() -> AbstractContextManager[object]:
    """Let pcrstore decode rows below a crop too, as the peers do, meanwhile."""
    return mock.patch.object(rendering, "first_rows", lambda data, shape, *_: (data, shape))
