"""Decode, crop and collate: images a second and core, at every fidelity, beside the source files.

    python -m benchmarks.speed.decode [--json] [--images 100] [--rounds 5]

The ImageNet sample is converted with the scripts `sa5` and `spec5`; the bytes that a loader decodes
(a prefix of scan groups, the end-of-band tail, EOI) are kept in memory and rendered into batches of
64 x 224 x 224 x 3 by RandomResizedCrop and mirror, as are the source files (nearly all baseline).
By simplejpeg and by Pillow, with DCT scaling and without, in one thread and in two, and once with
the rows below a crop decoded too. Cases are interleaved, figures are medians over the rounds; the
choice of images and crops is seeded.
"""

import itertools
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pcrstore
from benchmarks.common import IMAGENET, Report, data_folder, fresh, load, parser, work_folder
from benchmarks.peers.client import every_row
from pcrstore.core.hashing import key_of, uniforms
from pcrstore.image.crops import RandomResizedCrop
from pcrstore.image.decoder import Engine
from pcrstore.image.rendering import Rendering, render
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.parser import EOI, parse_frame

SCRIPTS = ("sa5", "spec5")
ENGINES: tuple[Engine, ...] = ("simplejpeg", "pillow")
BATCH = 64
SIZE = 224
WANTED_SCALING = 1.8
"""What two threads must do over one, on two idle cores: more is not expected of a shared memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to render one set of files."""

    files: str
    engine: Engine
    dct_scaling: bool
    n_threads: int
    every_row: bool = False
    """Decode what lies below a crop too."""


def decodable(jpeg: bytes, *, whole: bool) -> bytes:
    """Return what a loader decodes: below full fidelity a tail switches block smoothing off."""
    if whole:
        return jpeg
    return jpeg.removesuffix(EOI) + end_of_band_tail(parse_frame(jpeg)) + EOI


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
            out[f"{script} k={k}"] = [decodable(f, whole=k == ds.n_groups) for f in files]
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
            render(files[i], rendering, draws[i], row, engine=case.engine)
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


def agree(files: dict[str, list[bytes]], draws: list[list[float]]) -> bool:
    """Whether both engines make the same batches of every file."""
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
        if not all((a == b).all() for a, b in zip(one, other, strict=True)):
            return False
    return True


def main() -> int:
    """Run it; return 1 where a criterion failed."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    a = options.parse_args()
    report = Report("decode", a.as_json)
    files = files_of(data_folder(a.data), work_folder(a.work), a.images, a.seed)
    n = len(files["source"])
    keys = np.array([key_of(a.seed, i) for i in range(n)], np.uint64)
    draws: list[list[float]] = uniforms(keys, RandomResizedCrop.n_draws).tolist()
    report.note("images", n)
    report.note("cores, load", f"{os.cpu_count()}, {load()}")
    report.check(
        "engines agree", str(same := agree(files, draws)), "the same rows of both", ok=same
    )

    cases = [
        Case(files=name, engine=engine, dct_scaling=dct_scaling, n_threads=n_threads)
        for name in files
        for engine in ENGINES
        for dct_scaling in (True, False)
        for n_threads in (1, 2)
    ]
    wholes = {
        case: replace(case, every_row=True)
        for case in cases
        if case.engine == "simplejpeg" and not case.dct_scaling and case.n_threads == 1
    }
    found: dict[Case, list[tuple[float, float]]] = {}
    for case in cases:  # next to each other, for they are compared
        found |= {one: [] for one in (case, wholes.get(case)) if one is not None}
    for _ in range(a.rounds):
        for case, times in found.items():
            times.append(timed(files[case.files], draws, case))
    seconds = {case: statistics.median(s for s, _ in times) for case, times in found.items()}
    cpu = {case: statistics.median(c for _, c in times) for case, times in found.items()}
    for name in files:
        report.note(f"{name}, bytes an image", round(statistics.mean(map(len, files[name]))))
        for engine, dct_scaling in itertools.product(ENGINES, (True, False)):
            one, two = (
                Case(files=name, engine=engine, dct_scaling=dct_scaling, n_threads=n_threads)
                for n_threads in (1, 2)
            )
            report.note(
                f"{name}, {engine}, {'scaled' if dct_scaling else 'full size'}",
                f"{1 / seconds[one]:.0f} images/s/core with one thread,"
                f" {0.5 / seconds[two]:.0f} with two; {cpu[one] * 1e3:.2f} ms of CPU an image",
            )
    for case, whole in wholes.items():
        pairs = zip(found[case], found[whole], strict=True)
        share = 1 - statistics.median(one[1] / every[1] for one, every in pairs)
        report.note(f"{case.files}, saved by leaving out rows below the crop", f"{share:.1%}")
    ratios = [
        seconds[one] / seconds[two]
        for one, two in zip(cases[::2], cases[1::2], strict=True)
        if one.engine == "simplejpeg" and one.dct_scaling
    ]
    report.check(
        "two threads over one, simplejpeg scaled",
        f"median {statistics.median(ratios):.2f}, least {min(ratios):.2f}",
        f"median {WANTED_SCALING} on two idle cores",
        ok=statistics.median(ratios) >= WANTED_SCALING,
    )
    report.note("load after", load())
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
