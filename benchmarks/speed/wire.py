"""What moves on the wire: body bytes and requests, counted at an S3 server on the loopback.

    python -m benchmarks.speed.wire [--json]

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

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.common import (
    IMAGENET,
    LAYOUTS,
    Report,
    big_dataset,
    convert_set,
    data_folder,
    parser,
    work_folder,
)
from benchmarks.server.counting import BUCKET, CountingS3
from pcrstore.core.ranges import ByteRange
from pcrstore.cost.model import DEFAULT_COST, CostModel, break_even_gap

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
        ratio = n_bytes / size
        title = f"{name} {engine} k={k}"
        limit = MOST.get(k)
        report.check(
            f"{title}: wire / JPEG bytes",
            f"{ratio:.4f} (index {index[1] / size:.4f}, with the manifest "
            f"{(n_bytes + opened[1]) / size:.4f})",
            f"<= {limit}" if limit else "nothing",
            ok=n_images == len(ds) and (limit is None or ratio <= limit),
        )
        counted = ds.traffic
        exact = counted.index_requests + counted.data_requests == gets
        exact = exact and counted.index_bytes + counted.data_bytes == n_bytes
        most = ds.n_records if layout == "record" else 2 * k * ds.n_records
        report.check(
            f"{title}: requests",
            f"open {opened[0]}, index {index[0]}, data {data[0]} for {ds.n_records} records; "
            f"ds.traffic {'agrees' if exact else 'differs'}",
            f"open <= 3, data <= {most}, traffic agrees",
            ok=opened[0] <= 3 and data[0] <= most and exact and gets == data[0] + index[0],
        )


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
    chosen = random.Random(seed).sample(range(len(pcrstore.open(str(big)))), SAMPLES)  # noqa: S311
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
            report.check(
                f"{SAMPLES} samples, {title}, {engine}",
                f"gap {break_even_gap(model)}: plan {plan.n_requests} GETs {plan.n_bytes} bytes, "
                f"server {gets} {n_bytes}, plain merge {plain[0]} {plain[1]}; planning read "
                f"{index[0]} index ranges, {index[1]} bytes",
                "all the same, nothing of the images before",
                ok=(plan.n_requests, plan.n_bytes) == (gets, n_bytes) == plain and early == (0, 0),
            )
    by_gap = [found[t] for t in sorted(MODELS, key=lambda t: break_even_gap(MODELS[t]))]
    falls = all(a[0] >= b[0] and a[1] <= b[1] for a, b in pairwise(by_gap))
    report.check(
        "requests and bytes by growing gap", str(by_gap), "GETs fall, bytes grow",
        ok=falls and by_gap[0][0] > by_gap[-1][0],
    )  # fmt: skip
    for title, model in MODELS.items():
        costs = {t: price(model, *found[t]) for t in MODELS}
        best = min(costs.values())
        report.check(
            f"{title}: own plan's dollars / the cheapest of all {len(MODELS)}",
            f"{costs[title] / best:.5f}",
            "<= 1.001 (a longest request and rounding aside)",
            ok=costs[title] <= best * 1.001,
        )


def main() -> int:
    """Run everything."""
    args = parser(__doc__).parse_args()
    data, work = data_folder(args.data), work_folder(args.work)
    report = Report(benchmark="wire", as_json=args.as_json)
    big, figures = big_dataset(data, work)
    report.note("40,000 images", figures)
    (work / "wire").mkdir(exist_ok=True)
    for layout in LAYOUTS:
        convert_set(data, work / "wire", IMAGENET, layout)
    with CountingS3(work / "wire") as server:
        for layout in LAYOUTS:
            for engine in ENGINES:
                epoch(report, server, f"{IMAGENET}-{layout}", engine, layout)
    with CountingS3(big.parent) as server:
        scattered(report, server, big, args.seed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
