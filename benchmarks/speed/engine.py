"""The loader: CPU per sample, its share of what memory alone gives, RSS, sizes of records.

    python -m benchmarks engine [--rounds 5] [--skip-big]
    python -m benchmarks engine --record-kib 512,1024,2048,4096,8192

- CPU microseconds per sample at k = 3 of all threads, with decode, crop and resize left out: from
  memory, less checksums and the one copy of the bytes, and over a loopback S3 by obstore and s3fs.
- images/s from memory against decode, crop and collate of the same files by two bare threads.
- Peak RSS of 40 epochs of 1,000 images and of one of 40,000, the same ones repeated; RSS after 3
  and after 20 epochs.
- With --record-kib these instead: images/s and requests of an epoch of 1,000 images at fidelity 1,
  3 and 5 against the size of records, by obstore over 1 Gbit/s with 20 ms round trips. The index is
  read before. That is where the default size is from.

Processes of their own, interleaved, medians. The first run converts 40,000 images, which takes
minutes.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.data import BIG, IMAGENET, converted, repeated
from benchmarks.measuring import load, peak_rss
from benchmarks.needs import LINK, NGINX, OBSTORE, S3FS, SIMPLEJPEG, TORCH, data, free_disk
from benchmarks.peers.client import Asked
from benchmarks.results import Report, numbers
from benchmarks.server.base import BUCKET, folder_of
from benchmarks.server.shaped import Shaped
from pcrstore import Options

NEEDS: Final = (data(IMAGENET), NGINX, LINK, SIMPLEJPEG, OBSTORE, S3FS, TORCH, free_disk(8))
FIDELITY: Final = 3
SMALL: Final = 1000
COSTED: Final = 20_000
"""Samples of an epoch whose CPU time is taken: its beginning counts for little."""
MANY_EPOCHS: Final = 20
FEW_EPOCHS: Final = 3


def epochs_of(command: list[str]) -> list[dict[str, float]]:
    """Return the epochs that a process printed."""
    epochs: list[dict[str, float]] = json.loads(peak_rss(command)[0])
    return epochs


def loader(**asked: object) -> list[str]:
    """Return the command of some epochs of the loader."""
    return [sys.executable, "-m", "benchmarks.speed.engine_run", json.dumps(asked)]


def costs(report: Report, dataset: Path, served: Shaped, rounds: int) -> None:
    """Compare engines, with nothing rendered."""
    remote = {"url": f"s3://{BUCKET}/{dataset.name}", "options": served.options}
    variants = {
        "memory": loader(
            url=str(dataset), in_memory=True, render=False, epochs=2, epoch_size=COSTED
        ),
        "obstore": served.command(loader(**remote, engine="obstore", render=False, epochs=2)),
        "s3fs": served.command(loader(**remote, engine="fsspec", render=False, epochs=2)),
    }
    last: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, command in variants.items():
            last[name].append(epochs_of(command)[-1])
    for name, epochs in last.items():
        report.add(f"CPU per sample, {name}", [e["cpu_us"] for e in epochs], "us")
        report.add(f"speed, {name}", [e["images_per_s"] for e in epochs], "images/s")
    bytewise = statistics.median(e["touching_us"] for e in last["memory"])
    cost = statistics.median(e["cpu_us"] for e in last["memory"])
    report.add(
        "Python of the loader per sample", cost - bytewise, "us", at_most=20,
        detail=f"{bytewise:.1f} us more are checksums and one copy",
    )  # fmt: skip


def share_of_memory(report: Report, dataset: Path, rounds: int, seconds: float) -> None:
    """Compare the loader with bare threads."""
    asked = Asked(dataset=str(dataset), fidelity=FIDELITY, n_threads=2, seconds=seconds)
    bare = [sys.executable, "-m", "benchmarks.peers.driver_memory", asked.argv()]
    n = len(pcrstore.open(str(dataset)))
    ours = loader(url=str(dataset), in_memory=True, epochs=1 + max(1, round(seconds * 500 / n)))
    loaded: list[float] = []
    limits: list[float] = []
    for _ in range(rounds):
        limits.append(json.loads(peak_rss(bare)[0])["images_per_s"])
        epochs = epochs_of(ours)
        loaded.append(statistics.median(e["images_per_s"] for e in epochs[1:]))
    report.add("loader from memory", loaded, "images/s")
    report.add("decode, crop and collate from memory", limits, "images/s")
    share = statistics.median(loaded) / statistics.median(limits)
    report.add("loader / decode, crop and collate", share, at_least=0.9)


def memory(report: Report, small: Path, big: Path | None) -> None:
    """Measure RSS against the number of images and of epochs."""
    epochs = epochs_of(loader(url=str(small), epochs=MANY_EPOCHS))
    if big is not None:
        # As many samples of both: the longer a run, the higher its highest moment.
        one = epochs_of(loader(url=str(small), epochs=BIG // SMALL))[-1]["peak_rss"]
        report.add(f"peak RSS, {BIG // SMALL} epochs of {SMALL} images", one, "B")
        large = epochs_of(loader(url=str(big)))[-1]["peak_rss"]
        report.add(f"peak RSS, an epoch of {BIG} images", large, "B")
        report.add(f"peak RSS, {BIG} images / {SMALL}", large / one, at_most=1.1)
    print(f"RSS after each epoch, MB: {[round(e['rss'] / 1e6) for e in epochs]}")
    growth = epochs[-1]["rss"] / epochs[FEW_EPOCHS - 1]["rss"]
    report.add(f"RSS after {MANY_EPOCHS} epochs / after {FEW_EPOCHS}", growth, at_most=1.02)


def record_sizes(report: Report, photos: Path, args: argparse.Namespace) -> None:
    """Compare sizes of records over a link, interleaved."""
    root = args.work / "served-records"
    for size in args.record_kib:
        options = Options(record_bytes=size * 1024)
        converted(photos, folder_of(root) / f"kib-{size}", options)
    cases = [(k, size) for k in (1, 3, 5) for size in args.record_kib]
    speeds: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    requests: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    with Shaped(root, mbit=1000, rtt_ms=20, proxy=args.proxy) as served:
        for _ in range(args.rounds):
            for k, size in cases:
                url = f"s3://{BUCKET}/kib-{size}"
                asked = {"url": url, "options": served.options, "engine": "obstore", "fidelity": k}
                served.reset()
                epochs = epochs_of(served.command(loader(**asked, render=False, epochs=2)))
                speeds[k, size].append(epochs[-1]["images_per_s"])  # the index is read by then
                requests[k, size].append(served.reset().requests)
    for k, size in cases:
        title = f"fidelity {k}, records of {size} KiB"
        report.add(f"{title}: speed", speeds[k, size], "images/s")
        report.add(f"{title}: requests of two epochs and their index", requests[k, size])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is measured and how often."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a speed from memory, about")
    parser.add_argument("--skip-big", action="store_true", help="1,000 images only")
    parser.add_argument("--record-kib", type=numbers, help="sizes of records to compare, by commas")
    parser.add_argument("--proxy", action="store_true", help="links without network namespaces")


def run(args: argparse.Namespace, report: Report) -> None:
    """Run everything."""
    print(f"load at the start: {load()}")
    photos = repeated(args.data, args.work / f"photos-{SMALL}", SMALL, sets=(IMAGENET,))
    if args.record_kib:
        record_sizes(report, photos, args)
        return
    bucket = folder_of(args.work / "served-engine")
    small = converted(photos, bucket / "photos")
    share_of_memory(report, small, args.rounds, args.seconds)
    with Shaped(bucket.parent, proxy=args.proxy) as served:
        costs(report, small, served, args.rounds)
    big = None
    if not args.skip_big:
        photos = repeated(args.data, args.work / f"photos-{BIG}", BIG, sets=(IMAGENET,))
        big = converted(photos, bucket / f"photos-{BIG}")
    memory(report, small, big)
    print(f"load at the end: {load()}")
