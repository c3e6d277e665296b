"""Epochs of the loader in a process of their own, with CPU time and memory: a driver of `engine`.

    python -m benchmarks.speed.engine_run '{"url": ..., "epochs": 3, "render": false, ...}'

With `in_memory` a local dataset is read once to memory, and a body that is asked for again is the
same object: what is measured is the loader and not a copy by its store. Without `render` nothing is
decoded, cropped or resized: what is left is what the loader itself costs, and how much of that are
the checksums and the one copy of the bytes is measured apart.
"""

import gc
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import rss
from pcrstore import Dataset, Mix
from pcrstore.core import ByteRange, crc32c
from pcrstore.dataset import dataset_in
from pcrstore.loader import batches
from pcrstore.storage import Entries, ReadableStore
from pcrstore.storage.local import LocalStore
from pcrstore.torch import Loader


class Memory(ReadableStore):
    """A store that keeps every body that it gave."""

    url = "memory://kept"

    def __init__(self, folder: Path) -> None:
        self._store = LocalStore(str(folder))
        self._bodies: dict[ByteRange, bytes] = {}

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object."""
        return self._store.get(name, max_bytes=max_bytes)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range."""
        return [self._bodies.get(r) or self._read(r) for r in ranges]

    def _read(self, wanted: ByteRange) -> bytes:
        self._bodies[wanted] = body = self._store.get_ranges([wanted])[0]
        return body

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder."""
        return self._store.list(prefix)


def touching(files: Sequence[bytes], n_groups: int) -> float:
    """Return CPU microseconds of a file's checksums and of joining it, as the loader does both.

    In random order, and with 1,000 files held, of which the loader holds more: bytes come from and
    go to memory that is in no CPU's cache, as in an epoch. To cut a file into cells is Python and
    left out.
    """
    cells = []
    for f in files:
        edges = [len(f) * g // n_groups for g in range(n_groups + 1)]
        whole = np.frombuffer(f, np.uint8)
        cells.append([whole[a:b] for a, b in itertools.pairwise(edges)])
    held = deque((b"".join(c) for c in cells), maxlen=len(cells))
    order = np.random.default_rng(0).permutation(len(cells)).tolist()
    start = time.process_time()
    for i in order:
        for cell in cells[i]:
            crc32c(cell)
        held.append(b"".join(cells[i]))
    return (time.process_time() - start) / max(1, len(files)) * 1e6


def files_of(dataset: object, fidelity: int) -> list[bytes]:
    """Return all files; none of a dataset that is not in memory."""
    if not isinstance(dataset, Dataset):
        return []
    return dataset.fetch(range(len(dataset)), fidelity)


def highest_rss() -> int:
    """Return the most bytes that were ever resident, as the kernel keeps count."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) * 1024


def no_rendering(*_args: object, **_kwargs: object) -> None:
    """Leave a row as it is."""


def main() -> None:
    """Run the epochs and print a figure of each."""
    asked = json.loads(sys.argv[1])
    dataset = dataset_in(Memory(Path(asked["url"]))) if asked.get("in_memory") else asked["url"]
    fidelity = asked.get("fidelity", 3)
    if not asked.get("render", True):
        batches.render = no_rendering
    loader = Loader(
        Mix({dataset: 1.0}, epoch_size=asked["epoch_size"]) if "epoch_size" in asked else dataset,
        batch_size=64,
        fidelity=fidelity,
        n_threads=asked.get("n_threads", 2),
        storage_options=asked.get("options"),
        engine=asked.get("engine", "auto"),
        dct_scaling=False,
    )
    files = files_of(dataset, fidelity)
    out = []
    for epoch in range(asked.get("epochs", 1)):
        loader.set_epoch(epoch)
        gc.collect()
        cpu, start = time.process_time(), time.perf_counter()
        n = sum(len(labels) for _, labels in loader)
        seconds = time.perf_counter() - start
        out.append(
            {
                "n_images": n,
                "cpu_us": (time.process_time() - cpu) / n * 1e6,
                "touching_us": touching(files, fidelity),
                "images_per_s": n / seconds,
                "rss": rss(os.getpid()),
                "peak_rss": highest_rss(),
            }
        )
    print(json.dumps(out))


if __name__ == "__main__":
    main()
