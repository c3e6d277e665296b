"""Decode, crop and collate: images a second and core at every fidelity, and of source files.

    python -m benchmarks decode [--images 100] [--rounds 5]

The ImageNet sample is converted with the scripts `sa5` and `spec5`; the bytes that a loader decodes
(a prefix of scan groups, the end-of-band tail, EOI) are kept in memory and rendered into batches of
64 x 224 x 224 x 3 by RandomResizedCrop and mirror, as are the source files (nearly all baseline).
By simplejpeg and by Pillow, with DCT scaling and without, in one thread and in two, and once with
the rows below a crop decoded too. Cases are interleaved, figures are medians over the rounds; the
choice of images and crops is seeded.
"""

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import pcrstore
from benchmarks.data import IMAGENET, as_decoded, fresh
from benchmarks.measuring import load
from benchmarks.needs import SIMPLEJPEG, data
from benchmarks.peers.client import every_row
from benchmarks.results import Report
from pcrstore.core import key_of, uniforms
from pcrstore.image import RandomResizedCrop, Rendering, render
from pcrstore.image.decoder import Decoder

NEEDS: Final = (data(IMAGENET), SIMPLEJPEG)
SCRIPTS = ("sa5", "spec5")
ENGINES: tuple[Decoder, ...] = ("simplejpeg", "pillow")
BATCH = 64
SIZE = 224
WANTED_SCALING = 1.8
"""What two threads must do over one, on two idle cores: more is not expected of a shared memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to render one set of files."""

    files: str
    engine: Decoder
    dct_scaling: bool
    n_threads: int
    every_row: bool = False
    """Decode what lies below a crop too."""

    @property
    def has_every_row(self) -> bool:
        """Whether it is also run with every row decoded."""
        return self.engine == "simplejpeg" and not self.dct_scaling and self.n_threads == 1

    def __str__(self) -> str:
        scaled = "scaled" if self.dct_scaling else "full size"
        rows = ", every row" if self.every_row else ""
        return f"{self.files}, {self.engine}, {scaled}, threads {self.n_threads}{rows}"


def files_of(data: Path, work: Path, n: int, seed: int) -> dict[str, list[bytes]]:
    """Return the chosen images as source files, and at every fidelity of every script."""
    out: dict[str, list[bytes]] = {}
    for script in SCRIPTS:
        target = str(fresh(work / f"decode-{script}"))
        pcrstore.convert(str(data / IMAGENET), target, pcrstore.Options(script=script), workers=2)
        ds = pcrstore.open(target)
        keys = ds.column("key")
        by_key = sorted(range(len(ds)), key=lambda i: keys[i])  # the same images of either script
        order = np.random.default_rng(seed).permutation(len(ds))[:n]
        chosen = [by_key[i] for i in order]
        if not out:
            out["source"] = ds.fetch(chosen, "original")
        for k in range(1, ds.n_groups + 1):
            files = ds.fetch(chosen, k)
            out[f"{script} k={k}"] = [as_decoded(f) if k < ds.n_groups else f for f in files]
    return out


def batches(
    files: Sequence[bytes], rows: Sequence[int], draws: list[list[float]], case: Case
) -> Iterator[NDArray[np.uint8]]:
    """Yield the batches of some of the files."""
    rendering = Rendering(size=SIZE, crop=RandomResizedCrop(), dct_scaling=case.dct_scaling)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = np.empty((len(part), SIZE, SIZE, 3), np.uint8)
        for row, i in zip(batch, part, strict=True):
            render(files[i], rendering, draws[i], row, decoder=case.engine)
        yield batch


def timed(files: Sequence[bytes], draws: list[list[float]], case: Case) -> tuple[float, float]:
    """Return seconds and CPU seconds an image, all threads together."""

    def work(t: int) -> None:
        for _ in batches(files, range(t, len(files), case.n_threads), draws, case):
            pass

    threads = [threading.Thread(target=work, args=(t,)) for t in range(case.n_threads)]
    with every_row() if case.every_row else nullcontext():
        started, cpu = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return seconds / len(files), cpu / len(files)


def differing(files: dict[str, list[bytes]], draws: list[list[float]]) -> int:
    """Return how many batches of every file are not the same of both engines."""
    n = 0
    for (name, some), dct_scaling in itertools.product(files.items(), (False, True)):
        one, other = (
            batches(
                some,
                range(len(some)),
                draws,
                Case(files=name, engine=engine, dct_scaling=dct_scaling, n_threads=1),
            )
            for engine in ENGINES
        )
        n += sum(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    return n


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how much is decoded."""
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)


def run(args: argparse.Namespace, report: Report) -> None:
    """Run every case."""
    files = files_of(args.data, args.work, args.images, args.seed)
    n = len(files["source"])
    keys = np.array([key_of(args.seed, i) for i in range(n)], np.uint64)
    draws: list[list[float]] = uniforms(keys, RandomResizedCrop.n_draws).tolist()
    print(f"load: {load()}")
    report.add("batches that differ between the engines", differing(files, draws), at_most=0)

    found: dict[Case, list[tuple[float, float]]] = {}
    for name, engine, dct_scaling, n_threads in itertools.product(
        files, ENGINES, (True, False), (1, 2)
    ):
        case = Case(files=name, engine=engine, dct_scaling=dct_scaling, n_threads=n_threads)
        found[case] = []
        if case.has_every_row:  # next to each other, for they are compared
            found[replace(case, every_row=True)] = []
    for _ in range(args.rounds):
        for case, times in found.items():
            times.append(timed(files[case.files], draws, case))

    for name, some in files.items():
        report.add(f"{name}: image", statistics.mean(map(len, some)), "B")
    gains = []
    for case, times in found.items():
        seconds = [s for s, _ in times]
        report.add(f"{case}: speed", [1 / s / case.n_threads for s in seconds], "images/s/core")
        report.add(f"{case}: CPU of an image", [cpu * 1e3 for _, cpu in times], "ms")
        if case.every_row:
            pairs = zip(found[replace(case, every_row=False)], times, strict=True)
            saved = [1 - one[1] / every[1] for one, every in pairs]
            report.add(f"{case.files}: saved by leaving out rows below the crop", saved)
        if case.engine == "simplejpeg" and case.dct_scaling and case.n_threads == 2:
            one = statistics.median(s for s, _ in found[replace(case, n_threads=1)])
            gains.append(one / statistics.median(seconds))
    report.add(
        "two threads over one, simplejpeg scaled", gains, at_least=WANTED_SCALING,
        detail=f"on two idle cores; load {load()}",
    )  # fmt: skip
