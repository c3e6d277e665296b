"""What the loader costs: CPU per sample without pixels, its share of what memory gives, memory.

    python -m benchmarks.speed.engine [--json]

- CPU microseconds per sample at k = 3 of all threads, with decode, crop and resize left out: from
  memory, less checksums and the one copy of the bytes, and over a loopback S3 by obstore and s3fs.
- images/s from memory against decode, crop and collate of the same files by two bare threads.
- Peak RSS of 40 epochs of 1,000 images and of one of 40,000, the same ones repeated; RSS after 3
  and after 20 epochs.

Processes of their own, interleaved, medians. The first run converts 40,000 images, which takes
minutes. Needs nginx (see `serve`).
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.common import (
    BIG,
    IMAGENET,
    Report,
    data_folder,
    fresh,
    load,
    parser,
    peak_rss,
    repeated,
    work_folder,
)
from benchmarks.peers.client import BUCKET, Asked
from benchmarks.server.shaped import Shaped

FIDELITY: Final = 3
SMALL: Final = 1000
COSTED: Final = 20_000
"""Samples of an epoch whose CPU time is taken: its beginning counts for little."""
MANY_EPOCHS: Final = 20
FEW_EPOCHS: Final = 3
LEAST_SHARE: Final = 0.9
MOST_GROWTH: Final = 1.02
MOST_BY_SIZE: Final = 1.1
MOST_CPU: Final = 20.0


def run(command: list[str]) -> list[dict[str, float]]:
    """Return the epochs that a process printed."""
    return json.loads(peak_rss(command)[0])  # type: ignore[no-any-return]  # as `_engine_run` prints


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
    found: dict[str, list[float]] = {}
    speeds: dict[str, list[float]] = {}
    touching: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in variants.items():
            epochs = run(command)
            found.setdefault(name, []).append(epochs[-1]["cpu_us"])
            touching.setdefault(name, []).append(epochs[-1]["touching_us"])
            speeds.setdefault(name, []).append(epochs[-1]["images_per_s"])
    for name, values in found.items():
        cost, speed = statistics.median(values), statistics.median(speeds[name])
        figure = f"{cost:.1f} us ({speed:.0f} images/s)"
        if name == "memory":
            report.note(f"CPU per sample, {name}", figure)
            bytewise = statistics.median(touching[name])
            report.check(
                "Python of the loader per sample",
                f"{cost - bytewise:.1f} us, and {bytewise:.1f} us of checksums and one copy",
                f"<= {MOST_CPU}", ok=cost - bytewise <= MOST_CPU,
            )  # fmt: skip
        else:
            report.note(f"CPU per sample, {name}", figure)


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
        epochs = run(ours)
        loaded.append(statistics.median(e["images_per_s"] for e in epochs[1:]))
    share = statistics.median(loaded) / statistics.median(limits)
    report.check(
        "loader from memory / decode, crop and collate",
        f"{share:.3f} ({statistics.median(loaded):.0f} of {statistics.median(limits):.0f}/s)",
        f">= {LEAST_SHARE}", ok=share >= LEAST_SHARE,
    )  # fmt: skip


def memory(report: Report, small: Path, big: Path | None) -> None:
    """Measure RSS against the number of images and of epochs."""
    epochs = run(loader(url=str(small), epochs=MANY_EPOCHS))
    if big is not None:
        # As many samples of both: the longer a run, the higher its highest moment.
        one = run(loader(url=str(small), epochs=BIG // SMALL))[-1]["peak_rss"]
        report.note(f"peak RSS, {BIG // SMALL} epochs of {SMALL} images", f"{one / 1e6:.0f} MB")
        large = run(loader(url=str(big)))[-1]["peak_rss"]
        report.check(
            f"peak RSS, {BIG} images / {SMALL}", f"{large / one:.3f} ({large / 1e6:.0f} MB)",
            f"<= {MOST_BY_SIZE}", ok=large / one <= MOST_BY_SIZE,
        )  # fmt: skip
    report.note("RSS after each epoch, MB", [round(e["rss"] / 1e6) for e in epochs])
    few, many, peak = epochs[FEW_EPOCHS - 1]["rss"], epochs[-1]["rss"], epochs[-1]["peak_rss"]
    report.check(
        f"RSS after {MANY_EPOCHS} epochs / after {FEW_EPOCHS}",
        f"{many / few:.3f} ({few / 1e6:.0f} to {many / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB)",
        f"<= {MOST_GROWTH}", ok=many / few <= MOST_GROWTH,
    )  # fmt: skip


def converted(data: Path, work: Path, target: Path, n: int) -> Path:
    """Return a dataset of n images, the same ones whatever n is, made if it is not there."""
    done = target.with_name(target.name + ".done")
    if not done.exists():
        photos = repeated(data, work / f"photos-{n}", n, sets=(IMAGENET,))
        fresh(target)
        pcrstore.convert(str(photos), str(target), workers=2)
        done.touch()
    return target


def main() -> int:
    """Run everything."""
    out = parser(__doc__)
    out.add_argument("--rounds", type=int, default=5)
    out.add_argument("--seconds", type=float, default=10.0, help="of a speed from memory, about")
    out.add_argument("--skip-big", action="store_true", help="1,000 images only")
    args = out.parse_args()
    data, work = data_folder(args.data), work_folder(args.work)
    report = Report(benchmark="engine", as_json=args.as_json)
    report.note("load at the start", load())
    bucket = work / "served-engine" / BUCKET
    bucket.mkdir(parents=True, exist_ok=True)
    small = converted(data, work, bucket / "photos", SMALL)
    share_of_memory(report, small, args.rounds, args.seconds)
    with Shaped(bucket.parent) as served:
        costs(report, small, served, args.rounds)
    big = None if args.skip_big else converted(data, work, bucket / f"photos-{BIG}", BIG)
    memory(report, small, big)
    report.note("load at the end", load())
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
