"""Traffic on the wire: body bytes and requests, counted at an S3 server on the loopback.

    python -m benchmarks wire

- An epoch (`Dataset.iter`) at each fidelity, both layouts, both engines: everything after opening,
  index reads included, against the JPEG bytes of groups 1..k alone (without EOI). At most 1.03 at
  k = 1 and 1.005 from k = 3 on; in the record layout at most one GET per record; opening takes at
  most 3 requests.
- 1,000 random samples out of 40,000 at k = 2: what `plan` says is what the server sees, after the
  plan has read its index pages.
- The coalescing gap follows the cost model: other latencies and prices give the requests and bytes
  of a plain merge at `break_even_gap`, and no other model's plan is cheaper by the model's own
  prices than its own plan.

The first run converts 40,000 images, which takes minutes; later runs find them in `--work`.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.data import CLOTHING, IMAGENET, big_dataset, converted
from benchmarks.needs import OBSTORE, S3FS, data, free_disk
from benchmarks.results import Report
from benchmarks.server.base import BUCKET
from benchmarks.server.counting import CountingS3
from pcrstore import CostModel, Options
from pcrstore.core import ByteRange
from pcrstore.cost import DEFAULT_COST, break_even_gap

NEEDS: Final = (data(IMAGENET, CLOTHING), OBSTORE, S3FS, free_disk(8))
LAYOUTS: Final = ("record", "zarr")
ENGINES: Final = ("fsspec", "obstore")
MOST: Final = {1: 1.03, 3: 1.005, 4: 1.005, 5: 1.005}
DATA: Final = ("objects", "zarr")
SAMPLES: Final = 1000
MODELS: Final = {
    "default": DEFAULT_COST,
    "1 ms away": replace(DEFAULT_COST, link=replace(DEFAULT_COST.link, latency=0.001)),
    "200 ms away": replace(DEFAULT_COST, link=replace(DEFAULT_COST.link, latency=0.2)),
    "10 Gbit/s": replace(DEFAULT_COST, link=replace(DEFAULT_COST.link, bandwidth=1.25e9)),
    "egress 9 ct/GB": replace(
        DEFAULT_COST, prices=replace(DEFAULT_COST.prices, per_byte=0.09 / 1e9)
    ),
    "GETs x 100": replace(
        DEFAULT_COST, prices=replace(DEFAULT_COST.prices, per_get=100 * DEFAULT_COST.prices.per_get)
    ),
}


def epoch(report: Report, server: CountingS3, name: str, engine: str, layout: str) -> None:
    """Read an epoch at each fidelity with a fresh dataset."""
    n_groups = pcrstore.open(str(server.folder / name)).n_groups
    for k in range(1, n_groups + 1):
        server.clear()
        ds = pcrstore.open(f"s3://{BUCKET}/{name}", server.options, engine=engine)
        opened = server.of()
        server.clear()
        n_images, size = 0, 0
        for sample in ds.iter(fidelity=k):
            n_images += 1
            size += len(sample.jpeg) - 2
        gets, n_bytes = server.of()
        data, index = server.of(*DATA), server.of("index")
        title = f"{name} {engine} k={k}"
        report.add(
            f"{title}: wire / JPEG bytes", n_bytes / size, at_most=MOST.get(k),
            detail=f"index {index[1] / size:.4f}, with the manifest "
            f"{(n_bytes + opened[1]) / size:.4f}",
        )  # fmt: skip
        report.add(f"{title}: images", n_images, at_least=len(ds), at_most=len(ds))
        report.add(f"{title}: requests to open", opened[0], at_most=3)
        most = ds.n_records if layout == "record" else 2 * k * ds.n_records
        report.add(f"{title}: requests for data", data[0], at_most=most,
                   detail=f"index {index[0]}, records {ds.n_records}")  # fmt: skip
        counted = ds.traffic
        differing = (
            abs(counted.index_requests + counted.data_requests - gets)
            + abs(counted.index_bytes + counted.data_bytes - n_bytes)
            + abs(gets - data[0] - index[0])
        )
        report.add(f"{title}: requests and bytes that ds.traffic counts wrongly", differing,
                   at_most=0)  # fmt: skip


def merged(wanted: Sequence[ByteRange], gap: int, longest: int) -> tuple[int, int]:
    """Return requests and bytes of merging ranges the plainest way."""
    n, size = 0, 0
    ordered = sorted(w for w in wanted if len(w))
    for _, group in groupby(ordered, key=lambda w: w.name):
        start = stop = -1
        for w in group:
            fits = w.start - stop <= gap and max(stop, w.stop) - start <= longest
            if start >= 0 and (w.start < stop or fits):
                stop = max(stop, w.stop)
                continue
            n, size = n + (start >= 0), size + stop - start
            start, stop = w.start, w.stop
        n, size = n + 1, size + stop - start
    return n, size


def price(model: CostModel, n: int, size: int) -> float:
    """Return the dollars of some requests and bytes, waiting included, as the model's gap does."""
    v = model.per_second / model.link.concurrency
    per_request = model.prices.per_get + v * model.link.latency
    return n * per_request + size * (model.prices.per_byte + v / model.link.effective)


def scattered(report: Report, server: CountingS3, big: Path, seed: int) -> None:
    """Read random samples under every cost model, with both engines."""
    chosen = random.Random(seed).sample(range(len(pcrstore.open(str(big)))), SAMPLES)
    found: dict[str, tuple[int, int]] = {}
    for title, model in MODELS.items():
        for engine in ENGINES if title == "default" else ENGINES[1:]:
            url = f"s3://{BUCKET}/{big.name}"
            ds = pcrstore.open(url, server.options, engine=engine, cost=model)
            server.clear()
            plan = ds.plan(chosen, 2)
            index = server.of()
            early = server.of(*DATA)
            server.clear()
            ds.fetch(chosen, 2)
            gets, n_bytes = server.of()
            plain = merged(plan.wanted, break_even_gap(model), model.max_request)
            found[title] = (gets, n_bytes)
            here = f"{SAMPLES} samples, {title}, {engine}"
            report.add(f"{here}: requests", gets, detail=f"gap {break_even_gap(model)}")
            report.add(f"{here}: bytes", n_bytes, "B")
            of_plan = abs(plan.n_requests - gets) + abs(plan.n_bytes - n_bytes)
            of_merge = abs(plain[0] - gets) + abs(plain[1] - n_bytes)
            report.add(f"{here}: requests and bytes the plan has wrong", of_plan, at_most=0)
            report.add(f"{here}: requests and bytes unlike a plain merge", of_merge, at_most=0)
            report.add(
                f"{here}: requests for images while planning", early[0], at_most=0,
                detail=f"{index[0]} index ranges, {index[1]} bytes",
            )  # fmt: skip
    by_gap = [found[t] for t in sorted(MODELS, key=lambda t: break_even_gap(MODELS[t]))]
    rising = sum(a[0] < b[0] or a[1] > b[1] for a, b in pairwise(by_gap))
    report.add("steps at which a wider gap adds requests or saves bytes", rising, at_most=0)
    report.add(
        "requests with the widest gap / with the narrowest", by_gap[-1][0] / by_gap[0][0],
        at_most=0.999,
    )  # fmt: skip
    for title, model in MODELS.items():
        costs = {t: price(model, *found[t]) for t in MODELS}
        report.add(
            f"{title}: own plan's dollars / the cheapest of all {len(MODELS)}",
            costs[title] / min(costs.values()), at_most=1.001,
            detail="a longest request and rounding aside",
        )  # fmt: skip


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(args: argparse.Namespace, report: Report) -> None:
    """Run everything."""
    big, _ = big_dataset(args.data, args.work)
    folder = args.work / "wire"
    folder.mkdir(exist_ok=True)
    for layout in LAYOUTS:
        name = f"{IMAGENET}-{layout}"
        converted(args.data / IMAGENET, folder / name, Options(layout=layout))
    with CountingS3(folder) as server:
        for layout in LAYOUTS:
            for engine in ENGINES:
                epoch(report, server, f"{IMAGENET}-{layout}", engine, layout)
    with CountingS3(big.parent) as server:
        scattered(report, server, big, args.seed)
