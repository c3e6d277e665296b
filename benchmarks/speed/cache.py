"""The disk cache: hits on data larger than its limit, and the time of each operation.

    python -m benchmarks cache [--entries 50000]

- What is found in five epochs, each in another order, of twice and four times the limit, at first
  in a folder that another job has filled. Time is simulated.
- What a hit, a miss, a put and a sweep take, with nobody else there.
"""

import argparse
import os
import random
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.data import fresh
from benchmarks.measuring import timed
from benchmarks.results import Report
from pcrstore.core import ByteRange
from pcrstore.storage.cache.cache import Cache
from pcrstore.storage.cache.files import files

NEEDS: Final = ()
URL: Final = "s3://bucket/photos"
EPOCHS: Final = 5


def pass_on(cache: Cache, seconds: float) -> None:
    """Let time pass: everything was that much longer ago."""
    cache.folder.since -= seconds
    for file in files(cache.folder.path):
        os.utime(file.path, (file.mtime - seconds,) * 2)


def epochs(report: Report, work: Path, times: int) -> None:
    """Read `times` the limit in random order, epoch after epoch of an hour; judge what is found."""
    n, size, steps = 400, 1000, 20
    folder = fresh(work / "epochs")
    limit = n * size // times
    before = Cache(folder, limit=limit)
    for i in range(n // times):
        before.of("s3://bucket/others").put(ByteRange(f"{i}", 0, size), bytes(size))
    pass_on(before, 3600)
    cache = Cache(folder, limit=limit)
    ds = cache.of(URL)
    pick = random.Random(times)
    shares = []
    for _ in range(EPOCHS):
        hits = ds.n_hits
        order = pick.sample(range(n), n)
        for at, i in enumerate(order):
            wanted = ByteRange(f"objects/{i}", 0, size)
            if ds.get(wanted) is None:
                ds.put(wanted, bytes(size))
            if at % (n // steps) == 0:
                pass_on(cache, 3600 / steps)
        shares.append((ds.n_hits - hits) / n)
    report.add(
        f"least that is found of {times} times the limit from epoch 2 on",
        min(shares[1:]), at_least=0.9 / times,
        detail=f"epoch by epoch {', '.join(f'{share:.3f}' for share in shares)}",
    )  # fmt: skip


def costs(report: Report, work: Path, n_entries: int) -> None:
    """Measure each operation alone."""
    size, few = 100_000, 500
    body = np.random.default_rng(1).bytes(size)
    ranges = [ByteRange(f"objects/{i}", 0, size) for i in range(few)]
    ds = Cache(fresh(work / "costs"), limit="10gb").of(URL)
    seconds = {
        "put": timed(lambda: [ds.put(r, body) for r in ranges])[0],
        "hit": timed(lambda: [ds.get(r) for r in ranges])[0],
        "miss": timed(lambda: [ds.get(ByteRange("none", i, i + 9)) for i in range(few)])[0],
    }
    for name, took in seconds.items():
        report.add(f"{name} of {size // 1000} kB", took / few * 1e6, "us")
    folder = fresh(work / "many")
    cache = Cache(folder, limit=n_entries)
    ds = cache.of(URL)
    took, _ = timed(
        lambda: [ds.put(ByteRange(f"objects/{i}", 0, 1), b"x") for i in range(n_entries)]
    )
    report.add("put of a byte", took / n_entries * 1e6, "us")
    pass_on(cache, 100)
    ds = Cache(folder, limit=n_entries).of(URL)  # for which all that is there is stale
    few = n_entries // 10  # when as many bytes have been refused, it sweeps
    took, _ = timed(lambda: [ds.put(ByteRange(f"more/{i}", 0, 1), b"x") for i in range(few - 1)])
    report.add("put that is refused", took / (few - 1) * 1e6, "us")
    took, _ = timed(lambda: ds.put(ByteRange("one more", 0, 1), b"x"))
    left = sum(1 for _ in files(folder))
    report.add(f"sweep of {n_entries:,} entries", took, "s", detail=f"{left:,} are left")
    report.add("share of the entries that a sweep removes", 1 - left / n_entries, at_least=0.05)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size of what is swept."""
    parser.add_argument("--entries", type=int, default=50_000)


def run(args: argparse.Namespace, report: Report) -> None:
    """Run everything."""
    work = args.work / "cache"
    for times in (2, 4):
        epochs(report, work, times)
    costs(report, work, args.entries)
    fresh(work)
