"""Epochs of the loader in a process of their own, with CPU time and memory: a driver of `engine`.

    python -m benchmarks._engine_run '{"url": ..., "epochs": 3, "render": false, ...}'

With `in_memory` a local dataset is copied to fsspec's `memory://` first. Without `render` nothing
is decoded, cropped or resized: what is left is what the loader itself costs.
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

import fsspec

from benchmarks._common import rss
from pcrstore import feed
from pcrstore.torch import Loader


def to_memory(folder: Path) -> str:
    """Copy a folder to memory; return its URL."""
    fs = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/copy/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return "memory://copy"


def no_rendering(*_args: object, **_kwargs: object) -> None:
    """Leave a row as it is."""


def main() -> None:
    """Run the epochs and print a figure of each."""
    asked = json.loads(sys.argv[1])
    url = to_memory(Path(asked["url"])) if asked.get("in_memory") else asked["url"]
    if not asked.get("render", True):
        feed.render = no_rendering
    loader = Loader(
        url,
        batch_size=64,
        fidelity=asked.get("fidelity", 3),
        n_threads=asked.get("n_threads", 2),
        storage_options=asked.get("options"),
        engine=asked.get("engine", "auto"),
        dct_scaling=False,
    )
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
                "images_per_s": n / seconds,
                "rss": rss(os.getpid()),
            }
        )
    print(json.dumps(out))


if __name__ == "__main__":
    main()
