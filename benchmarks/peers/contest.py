"""Epochs of pcrstore and of WebDataset, MosaicML Streaming and LitData on the same images.

    python -m benchmarks peers                          half an hour of epochs per case and round
    python -m benchmarks peers --seconds 2 --rounds 1   a look

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

The peers' settings are in `driver_*.py`. pip makes the peers an environment below --work, where
everything is kept, and made once.
"""

import argparse
import math
from pathlib import Path
from typing import Final

from benchmarks.data import IMAGENET, converted, repeated
from benchmarks.measuring import load
from benchmarks.needs import LINK, NGINX, OBSTORE, S3FS, SIMPLEJPEG, TORCH, data, free_disk, package
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
)
from benchmarks.peers.environment import python_of
from benchmarks.peers.plot import bars
from benchmarks.peers.shards import view
from benchmarks.peers.verdicts import Found, Key, Verdicts, key_of
from benchmarks.results import Report, middle, numbers
from benchmarks.server.base import BUCKET, folder_of
from benchmarks.server.shaped import Shaped
from pcrstore import Options

NEEDS: Final = (
    data(IMAGENET), NGINX, LINK, SIMPLEJPEG, OBSTORE, S3FS, TORCH,
    package("ensurepip", "nothing, but apt-get install python3-venv"), free_disk(20),
)  # fmt: skip
LARGEST: Final = 30_000
"""Images that pcrstore's datasets have at most."""
MEMORY_SECONDS: Final = 4.0
BULK_SECONDS: Final = 4.0
SCRIPTS: Final = ("sa5", "spec5")
UNITS: Final = {
    "speed": "images/s", "steady speed": "images/s", "warm speed": "images/s",
    "first batch": "s", "warm first batch": "s", "image": "B", "requests of 1,000": "",
    "warm bytes": "B", "peak RSS": "B", "images": "", "limit by memory": "images/s",
    "limit by the link": "images/s",
}  # fmt: skip
"""Units of the figures of a contestant in a case."""
COLUMNS: Final = (
    ("images/s", "speed", 1), ("steady", "steady speed", 1), ("warm", "warm speed", 1),
    ("first s", "first batch", 0), ("bytes/img", "image", 1), ("GET/1000", "requests of 1,000", 1),
    ("RSS MB", "peak RSS", 1e6), ("memory/s", "limit by memory", 1),
    ("link/s", "limit by the link", 1), ("images", "images", 1),
)  # fmt: skip
"""Title, figure and unit of the columns of the printed table; a unit of 0 is two decimals."""


class Contest:
    """Data sets, cases and rounds."""

    def __init__(self, args: argparse.Namespace, report: Report) -> None:
        self._args = args
        self._report = report
        self._work = args.work
        self._bucket = folder_of(self._work / "served")
        self._python = python_of(self._work)
        self.who = [
            c
            for c in contestants(args.fidelities)
            if any(part in c.name for part in args.only.split(","))
            and not any(part in c.name for part in args.skip.split(",") if part)
        ]
        base = repeated(args.data, self._work / "base", args.base_images, sets=(IMAGENET,))
        prepare_peers(self._python, base, self._bucket, self._work, round(args.shard_mb * 1e6))
        self._bases = {
            s: converted(base, self._work / f"base-{s}", Options(script=s)) for s in SCRIPTS
        }
        self._keys = sorted({key_of(w) for w in self.who} | {("sa5", -1)})
        here = self._arena(None)
        self._first = {k: self._limit(here, k) for k in self._keys}
        fastest = max(limit.images_per_s for limit in self._first.values())
        n = 2500 * math.ceil(min(LARGEST, args.images or fastest * args.seconds) / 2500)
        self._n_most = n
        images = repeated(args.data, self._work / f"images-{n}", n, sets=(IMAGENET,))
        for script in SCRIPTS:
            converted(images, self._bucket / f"{script}-{n}", Options(script=script))

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
            proxy=self._args.proxy,
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

    def add_rows(self, case: Case, found: Found) -> None:
        """Add the figures of each contestant, and print them as a table."""
        print(f"\n{case.name}: bulk {found.bulk_rate() / 1e6:.1f} MB/s; load {load()}")
        print(f"{'':32}" + "".join(f"{title:>11}" for title, _, _ in COLUMNS))
        for who in self.who:
            if who.name not in found.runs:
                continue
            figures = figures_of(who, found)
            for name, values in figures.items():
                title = f"{case.name}: {who.name}: {name}"
                self._report.add(title, values, UNITS[name], shown=False)
            cells = (
                f"{middle(figures[name]) / (unit or 1):11.{0 if unit else 2}f}"
                for _, name, unit in COLUMNS
            )
            print(f"{who.name:32}{''.join(cells)}", flush=True)


def figures_of(who: Contestant, found: Found) -> dict[str, list[float]]:
    """Return the figures of a contestant in a case, each run's."""
    runs, limit = found.runs[who.name], found.limit(key_of(who))
    images = runs.values("n_images")
    return {
        "speed": runs.values("whole_images_per_s"),
        "steady speed": runs.values("images_per_s"),
        "warm speed": runs.values("whole_images_per_s", 1),
        "first batch": runs.values("first_batch"),
        "warm first batch": runs.values("first_batch", 1),
        "image": [size / n for size, n in zip(runs.values("bytes"), images, strict=True)],
        "requests of 1,000": [
            1000 * requests / n for requests, n in zip(runs.values("requests"), images, strict=True)
        ],
        "warm bytes": runs.values("bytes", 1),
        "peak RSS": [float(size) for size in runs.peak_rss],
        "images": images,
        "limit by memory": [limit.images_per_s],
        "limit by the link": [rate / limit.mean_bytes for rate in found.bulk],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is run, how long and how often."""
    parser.add_argument("--seconds", type=float, default=30.0, help="of an epoch, about")
    parser.add_argument("--images", type=int, default=0, help="of an epoch, instead of --seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="1: cold only")
    parser.add_argument("--cases", default="", help="parts of names of cases, by semicolons")
    parser.add_argument("--only", default="", help="parts of names of contestants, by commas")
    parser.add_argument("--skip", default="", help="parts of names to leave out, by commas")
    parser.add_argument("--fidelities", default=[1, 3, 5], type=numbers)
    parser.add_argument("--shard-mb", type=float, default=64.0, help="of the peers; MB")
    parser.add_argument("--base-images", type=int, default=2500, help="in the peers' shards")
    parser.add_argument("--plot", type=Path, default=None, help="default: in --work")
    parser.add_argument("--proxy", action="store_true", help="links without network namespaces")


def run(args: argparse.Namespace, report: Report) -> None:
    """Run every case."""
    print(f"load at the start: {load()}")
    contest = Contest(args, report)
    found: dict[str, Found] = {}
    for case in CASES:
        if any(part in case.name for part in args.cases.split(";")):
            found[case.name] = contest.case(case)
            contest.add_rows(case, found[case.name])
    Verdicts(report, found, contest.who).all()
    panels = {
        name: {who: runs.median("whole_images_per_s") for who, runs in f.runs.items()}
        for name, f in found.items()
    }
    bars(panels, args.plot or args.work / "peers.svg", "images/s, cold epoch")
