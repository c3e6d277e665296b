"""Throughput of an epoch against record size, over a link: where the default record size is from.

    python -m benchmarks.speed.record_size prepare --data DIR --root ROOT
    python -m benchmarks.speed.record_size measure --root ROOT --endpoint URL

`prepare` converts the same photos with records of 0.5 to 8 MiB into ROOT/bucket. Serve ROOT by any
server that answers path-style ranged GETs, behind the link to be measured; `measure` then reads an
epoch at each fidelity by obstore and prints images/s as a share of the best. Sizes are interleaved,
figures are medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from pcrstore import Options, convert
from pcrstore.cost.model import DEFAULT_COST
from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.versions import read_manifest
from pcrstore.storage.open import open_store

SIZES_KIB = (512, 1024, 2048, 4096, 8192)
COPIES = 4
"""The photos are repeated under other names, so that an epoch outlasts its first round trips."""
FIDELITIES = (1, 3, 5)


def prepare(data: Path, root: Path) -> None:
    """Convert at every size."""
    photos = root / "photos"
    for copy in range(COPIES):
        (photos / f"copy-{copy}").mkdir(parents=True, exist_ok=True)
        for source in data.glob("*/*"):
            target = photos / f"copy-{copy}" / source.name
            if not target.exists():
                target.write_bytes(source.read_bytes())
    for size in SIZES_KIB:
        report = convert(
            str(photos), str(root / "bucket" / f"kib-{size}"), Options(record_bytes=size * 1024)
        )
        print(f"{size} KiB: {report.n_images} images in {report.n_records} records")


def epoch(root: Path, endpoint: str, size: int, fidelity: int) -> tuple[float, int]:
    """Return images/s and requests of one epoch; the index is read before the clock starts."""
    local = open_store(str(root / "bucket" / f"kib-{size}"))
    remote = open_store(
        f"s3://bucket/kib-{size}",
        {"endpoint_url": endpoint, "key": "any", "secret": "any"},
        engine="obstore",
    )
    ds = Dataset(remote, read_manifest(local, 1), DEFAULT_COST)
    ds.column("key")
    ds.column("label")
    ds.column("format")
    started = time.perf_counter()
    n = sum(1 for _ in ds.iter(fidelity=fidelity))
    return n / (time.perf_counter() - started), ds.traffic.data_requests


def measure(root: Path, endpoint: str, rounds: int, *, as_json: bool) -> None:
    """Read epochs, sizes interleaved, and print medians."""
    found: dict[tuple[int, int], list[float]] = {}
    requests: dict[tuple[int, int], int] = {}
    for _ in range(rounds):
        for fidelity in FIDELITIES:
            for size in SIZES_KIB:
                speed, n = epoch(root, endpoint, size, fidelity)
                found.setdefault((fidelity, size), []).append(speed)
                requests[fidelity, size] = n
    medians = {key: statistics.median(values) for key, values in found.items()}
    if as_json:
        rows = [
            {"fidelity": f, "record_kib": s, "images_per_s": v, "requests": requests[f, s]}
            for (f, s), v in medians.items()
        ]
        print(json.dumps(rows))
        return
    print("fidelity  " + "".join(f"{s:>16} KiB" for s in SIZES_KIB))
    for fidelity in FIDELITIES:
        best = max(medians[fidelity, s] for s in SIZES_KIB)
        cells = (
            f"{medians[fidelity, s]:8.0f}/s {medians[fidelity, s] / best:5.0%} "
            f"{requests[fidelity, s]:4}"
            for s in SIZES_KIB
        )
        print(f"{fidelity:8}  " + "".join(cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("prepare", "measure"))
    parser.add_argument("--data", type=Path, help="class-per-folder photos")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--endpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.step == "prepare":
        prepare(arguments.data, arguments.root)
    else:
        measure(arguments.root, arguments.endpoint, arguments.rounds, as_json=arguments.json)
