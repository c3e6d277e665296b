"""Decode, crop and collate from memory with two threads: what the machine could do without I/O.

The files of a fidelity are read first; then batches are made for some seconds. `fidelity` -1 is the
source files by the transform of the peers, others are by pcrstore's own.
"""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

import pcrstore
from benchmarks.data import as_decoded
from benchmarks.peers.client import Asked
from benchmarks.peers.transform import Transform, decoded, drawn
from pcrstore.image import render
from pcrstore.image.rendering import render_pixels

_FILES = 1000


def load(asked: Asked) -> tuple[list[bytes], float]:
    """Return files as the loader's decoder is given them, and the mean of their stored bytes."""
    ds = pcrstore.open(asked.dataset)
    rows = range(min(len(ds), _FILES))
    fidelity = asked.fidelity or ds.n_groups
    files = list(ds.fetch(rows, fidelity="original" if fidelity < 0 else fidelity))
    mean = sum(map(len, files)) / len(files)
    if 0 < fidelity < ds.n_groups:
        files = [as_decoded(f) for f in files]
    return files, mean


def main() -> None:
    """Make batches for some seconds and print images per second."""
    asked = Asked.from_argv()
    files, mean = load(asked)
    rendering = Transform(asked.size).rendering
    generator = random.Random(asked.seed)

    def fill(jobs: list[tuple[bytes, list[float], NDArray[np.uint8]]]) -> None:
        for jpeg, draws, out in jobs:
            if asked.fidelity < 0:
                render_pixels(decoded(jpeg), rendering, draws, out)
            else:
                render(jpeg, rendering, draws, out)

    n_threads = asked.n_threads or 2
    n = 0
    with ThreadPoolExecutor(n_threads) as pool:
        start = time.perf_counter()
        while time.perf_counter() - start < asked.seconds:
            batch = np.empty((asked.batch_size, asked.size, asked.size, 3), np.uint8)
            jobs = [(generator.choice(files), drawn(generator.random), out) for out in batch]
            list(pool.map(fill, (jobs[i::n_threads] for i in range(n_threads))))
            n += asked.batch_size
        seconds = time.perf_counter() - start
    print(json.dumps({"images_per_s": n / seconds, "mean_bytes": mean}))


if __name__ == "__main__":
    main()
