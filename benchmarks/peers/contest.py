"""Epochs of pcrstore and of WebDataset, MosaicML Streaming and LitData on the same images.

    python -m benchmarks.peers.contest [--json]                 half an hour of epochs per case and round
    python -m benchmarks.peers.contest --seconds 2 --rounds 1   a look

    same JPEGs ──▶ shards of each ──▶ nginx ── link ── each one's own S3 client ──▶ decode ──▶ batch

- Everyone decodes with simplejpeg, then crops, resizes and flips by the same function, in batches
  of 64, with two workers (pcrstore: two threads in one process, and also two workers).
- pcrstore chooses a crop before it decodes and leaves out the rows below it: the same pixels from
  the same decoder. "every row" decodes them too, where only computing counts.
- An epoch lasts about --seconds, of the same images again and again under other names. The first
  one of a process is cold, the next warm: caches on disk are kept, where there are any.
- images/s counts everything from before the dataset is opened to the last batch. `steady` is from
  the first batch to the last, and flatters who fetches much before the first.
- Limits, measured in the same rounds: a bulk download by 16 streams, and decode, crop and collate
  from memory.

The peers' settings are in `driver_*.py`. Needs nginx (see `serve`); pip makes the peers an
environment below --work. Everything is kept there, and made once.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.common import (
    IMAGENET,
    Report,
    data_folder,
    fresh,
    load,
    parser,
    repeated,
    work_folder,
)
from benchmarks.peers.arena import (
    CASES,
    FREE,
    Arena,
    Case,
    Contestant,
    Limit,
    Runs,
    contestants,
    interleaved,
    prepare_peers,
    view,
)
from benchmarks.peers.client import BUCKET
from benchmarks.peers.environment import python_of
from benchmarks.peers.plot import bars
from benchmarks.peers.verdicts import Found, Key, Verdicts, key_of
from benchmarks.server.shaped import Shaped
from pcrstore.conversion.options import Options

BASE_IMAGES: Final = 2500
"""Images that each peer's shards hold once."""
LARGEST: Final = 30_000
"""Images that pcrstore's datasets have at most."""
MEMORY_SECONDS: Final = 4.0
BULK_SECONDS: Final = 4.0
SCRIPTS: Final = ("sa5", "spec5")


def convert_once(images: Path, target: Path, script: str) -> Path:
    """Return a dataset, converted if it is not there."""
    done = target.with_name(target.name + ".done")
    if not done.exists():
        print(f"converting {target.name}", file=sys.stderr, flush=True)
        pcrstore.convert(str(images), str(fresh(target)), Options(script=script), workers=2)
        done.write_text(script)
    return target


class Contest:
    """Data sets, cases and rounds."""

    def __init__(self, args: argparse.Namespace, report: Report) -> None:
        self._args = args
        self._report = report
        self._data = data_folder(args.data)
        self._work = work_folder(args.work)
        self._bucket = self._work / "served" / BUCKET
        self._bucket.mkdir(parents=True, exist_ok=True)
        self._python = python_of(self._work)
        self.who = [
            c
            for c in contestants(args.fidelities)
            if any(part in c.name for part in args.only.split(","))
            and not any(part in c.name for part in args.skip.split(",") if part)
        ]
        base = repeated(self._data, self._work / "base", args.base_images, sets=(IMAGENET,))
        prepare_peers(self._python, base, self._bucket, self._work, round(args.shard_mb * 1e6))
        self._bases = {s: convert_once(base, self._work / f"base-{s}", s) for s in SCRIPTS}
        self._keys = sorted({key_of(w) for w in self.who} | {("sa5", -1)})
        here = self._arena(None)
        self._first = {k: self._limit(here, k) for k in self._keys}
        fastest = max(limit.images_per_s for limit in self._first.values())
        n = 2500 * math.ceil(min(LARGEST, args.images or fastest * args.seconds) / 2500)
        self._n_most = n
        images = repeated(self._data, self._work / f"images-{n}", n, sets=(IMAGENET,))
        for script in SCRIPTS:
            convert_once(images, self._bucket / f"{script}-{n}", script)

    def _arena(self, served: Shaped | None) -> Arena:
        args = self._args
        return Arena(self._work, self._python, served, epochs=args.epochs, seed=args.seed)

    def _limit(self, arena: Arena, key: Key) -> Limit:
        return arena.limit(self._bases[key[0]], key[1], min(MEMORY_SECONDS, self._args.seconds))

    def case(self, case: Case) -> Found:
        """Run every round of a case."""
        here = [w for w in self.who if case.name == FREE or not w.every_row]
        found = Found(runs={w.name: Runs() for w in here})
        with Shaped(
            self._bucket.parent,
            mbit=case.mbit,
            rtt_ms=case.rtt_ms,
            first_byte_ms=case.first_byte_ms,
        ) as served:
            arena = self._arena(served)
            self._measure_bulk(arena, found)
            for who in here:  # sizes are the same in every round
                self._size(who, found)
            limits = [Contestant(name=f"{s} {k}", driver="memory", dataset=s, fidelity=k)
                      for s, k in self._keys]  # fmt: skip
            bulk = Contestant(name="bulk", driver="bulk", dataset="sa5")

            def once(who: Contestant) -> None:
                if who.driver == "memory":
                    key = who.dataset, who.fidelity
                    found.limits.setdefault(key, []).append(self._limit(arena, key))
                elif who.driver == "bulk":
                    self._measure_bulk(arena, found)
                else:
                    folder, n_images, n_shards = self._size(who, found)
                    arena.run(who, folder, n_images, n_shards, found.runs[who.name])

            everyone = [*here, *limits, bulk]
            interleaved(everyone, self._args.rounds, self._args.seed, once)
        return found

    def _measure_bulk(self, arena: Arena, found: Found) -> None:
        folder = self._bucket / f"sa5-{self._n_most}" / "objects"
        keys = [f"{BUCKET}/{p.relative_to(self._bucket)}" for p in sorted(folder.rglob("*"))
                if p.is_file()]  # fmt: skip
        found.bulk.append(arena.bulk(keys, min(BULK_SECONDS, self._args.seconds)))

    def _size(self, who: Contestant, found: Found) -> tuple[str, int, int]:
        """Return the data set of an epoch that lasts about as long as asked, its images, shards."""
        limit = self._first[key_of(who)]
        fastest = min(limit.images_per_s, found.bulk[0] / limit.mean_bytes)
        n = max(256, math.ceil((self._args.images or fastest * self._args.seconds) / 64) * 64)
        if who.is_peer:
            return view(self._bucket, who.dataset, n)
        return f"{who.dataset}-{self._n_most}", min(n, self._n_most), 0

    def table(self, case: Case, found: Found) -> list[dict[str, object]]:
        """Return a row for each contestant, and print them."""
        rows: list[dict[str, object]] = []
        for who in self.who:
            if who.name not in found.runs:
                continue
            runs = found.runs[who.name]
            cold = {name: runs.median(name) for name in (
                "n_images", "whole_images_per_s", "images_per_s", "first_batch", "requests", "bytes"
            )}  # fmt: skip
            limit = found.limit(key_of(who))
            rows.append(
                {
                    "case": case.name,
                    "who": who.name,
                    "images_per_s": cold["whole_images_per_s"],
                    "steady_images_per_s": cold["images_per_s"],
                    "warm_images_per_s": runs.median("whole_images_per_s", 1),
                    "first_batch_s": cold["first_batch"],
                    "warm_first_batch_s": runs.median("first_batch", 1),
                    "bytes_per_image": cold["bytes"] / cold["n_images"],
                    "requests_per_1000": 1000 * cold["requests"] / cold["n_images"],
                    "warm_bytes": runs.median("bytes", 1),
                    "peak_rss": runs.rss(),
                    "n_images": cold["n_images"],
                    "memory_images_per_s": limit.images_per_s,
                    "link_images_per_s": found.bulk_rate() / limit.mean_bytes,
                    "runs": asdict(runs),
                }
            )
        if not self._report.as_json:
            show(case, found, rows)
        return rows


def show(case: Case, found: Found, rows: Sequence[dict[str, object]]) -> None:
    """Print the table of a case."""
    print(f"\n{case.name}: bulk {found.bulk_rate() / 1e6:.1f} MB/s; load {load()}")
    columns = (
        ("images/s", "images_per_s", 1), ("steady", "steady_images_per_s", 1),
        ("warm", "warm_images_per_s", 1), ("first s", "first_batch_s", 0),
        ("bytes/img", "bytes_per_image", 1), ("GET/1000", "requests_per_1000", 1),
        ("RSS MB", "peak_rss", 1e6), ("memory/s", "memory_images_per_s", 1),
        ("link/s", "link_images_per_s", 1), ("images", "n_images", 1),
    )  # fmt: skip
    print(f"{'':32}" + "".join(f"{title:>11}" for title, _, _ in columns))
    for row in rows:
        cells = "".join(
            f"{float(str(row[name])) / (unit or 1):11.{0 if unit else 2}f}"
            for _, name, unit in columns
        )
        print(f"{row['who']!s:32}{cells}")


def arguments() -> argparse.Namespace:
    """Return what was asked."""
    out = parser(__doc__)
    out.add_argument("--seconds", type=float, default=30.0, help="of an epoch, about")
    out.add_argument("--images", type=int, default=0, help="of an epoch, instead of --seconds")
    out.add_argument("--rounds", type=int, default=5)
    out.add_argument("--epochs", type=int, default=2, help="1: cold only")
    out.add_argument("--cases", default="", help="parts of names of cases, by semicolons")
    out.add_argument("--only", default="", help="parts of names of contestants, by commas")
    out.add_argument("--skip", default="", help="parts of names to leave out, by commas")
    out.add_argument(
        "--fidelities", default="1,3,5", type=lambda text: [int(k) for k in text.split(",")]
    )
    out.add_argument("--shard-mb", type=float, default=64.0, help="of the peers; MB")
    out.add_argument("--base-images", type=int, default=BASE_IMAGES, help="in the peers' shards")
    out.add_argument("--out", type=Path, default=None, help="JSON of every run; default: in --work")
    out.add_argument("--plot", type=Path, default=None, help="default: in --work")
    return out.parse_args()


def main() -> int:
    """Run everything."""
    args = arguments()
    report = Report(benchmark="peers", as_json=args.as_json)
    report.note("load at the start", load())
    contest = Contest(args, report)
    found: dict[str, Found] = {}
    rows: list[dict[str, object]] = []
    work = work_folder(args.work)
    for case in CASES:
        if any(part in case.name for part in args.cases.split(";")):
            found[case.name] = contest.case(case)
            rows += contest.table(case, found[case.name])
            (args.out or work / "peers.json").write_text(json.dumps(rows, indent=1))
    report.figures["rows"] = [{k: v for k, v in row.items() if k != "runs"} for row in rows]
    Verdicts(report, found, contest.who).all()
    panels = {
        name: {who: runs.median("whole_images_per_s") for who, runs in f.runs.items()}
        for name, f in found.items()
    }
    bars(panels, args.plot or work / "peers.svg", "images/s, cold epoch")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
