"""The quality of a shuffle: pcrstore's window beside MosaicML Streaming and WebDataset.

    python -m benchmarks shuffle [--images 100000] [--streaming-python ENVIRONMENT/bin/python]

Pure simulation: nothing is stored or read. A dataset of `--images` samples, in records of 32
(pcrstore) or shards of 600 (64 MiB of ImageNet's mean of 110 kB), is read by one rank of
`--workers` processes that yield batches of 64 in turn; what is measured is which samples meet in a
batch. pcrstore's order is made by `pcrstore.sampling` itself. The others':

- WebDataset 1.0: shards shuffled, dealt to workers, then `shuffle(1000)` with `initial=100`: two
  samples in, one out, until 1,000 are held (webdataset/filters.py, `_shuffle`).
- MosaicML Streaming 0.13, one canonical node: shards shuffled by the seed and by the epoch; then
  py1s permutes each shard, py1br permutes blocks of 0.75 to 1.25 of the block size, py1e (default)
  moves each sample by up to half a block either way, and naive permutes all. The default block is
  max(4,000,000 / canonical nodes, 2^18) samples (docs.mosaicml.com/projects/streaming, Shuffling).
  Streaming's own functions are called, by the interpreter that --streaming-python names (`peers`
  makes one in `peers-environment` below its --work); without it they are left out.

Measures, each divided by what a uniform permutation is expected to have, so that 1 is ideal:

- displacement: mean distance between where a sample is stored and where it is read, of n/3, the
  mean distance of two uniform places. Shuffling shards alone reaches it; below it is bad.
- near32, near600: distinct runs of 32 (600) stored neighbours among the 64 of a batch, of
  k (1 - (1 - 1/k)^64) for k runs: how far a batch is from a few records.
- neighbours: how often two samples stored side by side are in one batch, of 63/(n-1).
- reunion: how often two samples of one batch are in one batch again in the next epoch, of
  63/(n-1). It is the gradient noise that another epoch does not make new.
- correlation: Pearson's, of a sample's place in an epoch and the next; 0 is ideal.
- chi2 sorted, chi2 shuffled: chi-square of the classes of a batch against all classes alike, of its
  degrees of freedom (Pearson; its mean is classes - 1 however small the counts), where classes were
  stored one after the other, and mixed. A batch of one class has 64.

That a permutation which is not uniform slows learning once it is far from it is shown by Meng et
al., arXiv:1709.10432 ("insufficient shuffling"). Figures are means of `--epochs` epochs; where 167
shards are what is shuffled, displacement and correlation are uncertain by 0.05.

What it costs, in MB of whole images:

- first: what must be read before the first batch: records or shards that it touches (WebDataset:
  samples, as it streams).
- held: records or shards that were begun and are not finished, at the most, of all workers
  (WebDataset: the samples in the buffers).
"""

import argparse
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.needs import Need
from benchmarks.results import Report
from pcrstore.sampling import EpochOrder, EpochPartition, Topology

Ids = NDArray[np.int64]

NEEDS: Final = (
    Need(
        what="mosaicml-streaming in the interpreter of --streaming-python",
        bring="PYTHON -m pip install mosaicml-streaming, or leave the option out",
        is_there=lambda args: not args.streaming_python or has_streaming(args.streaming_python),
    ),
)
BATCH: Final = 64
RECORD: Final = 32
SHARD: Final = 600
PART: Final = 2**16
"""Images of an index part: the block of an order."""
IMAGE_MB: Final = 64 * 2**20 / SHARD / 1e6
CLASSES: Final = 100
BUFFER: Final = 1000
INITIAL: Final = 100
WINDOWS: Final = (1, 256, 1024, 2048, 4096)
DEFAULT: Final = 1024
MDS_BLOCK: Final = 4_000_000
SMALL_BLOCK: Final = 10 * SHARD
"""The least that Streaming's documentation recommends."""
MDS: Final = (
    ("py1s", 0),
    ("py1br", SMALL_BLOCK),
    ("py1e", SMALL_BLOCK),
    ("py1br", MDS_BLOCK),
    ("py1e", MDS_BLOCK),
    ("naive", 0),
)
"""Streaming's shuffles, and their blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one way of shuffling reads."""

    ids: Ids
    """Samples in the order of batches."""
    first_mb: float
    held_mb: float


UNITS: Final = {
    "displacement": "", "near32": "", "near600": "", "neighbours": "", "reunion": "",
    "correlation": "", "chi2_sorted": "", "chi2_shuffled": "", "first_mb": "MB", "held_mb": "MB",
}  # fmt: skip
"""Units of the measures of a way of shuffling, and of what it costs; most are ratios."""


def has_streaming(python: str) -> bool:
    """Return whether an interpreter has MosaicML Streaming."""
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('streaming') is None)"
    try:
        return subprocess.run([python, "-c", find], check=False).returncode == 0
    except OSError:
        return False


def dealt(workers: list[Ids]) -> Ids:
    """Return the samples of workers that yield batches in turn."""
    batches = [[ids[i : i + BATCH] for i in range(0, len(ids), BATCH)] for ids in workers]
    rounds = range(max(map(len, batches)))
    return np.concatenate([b[i] for i in rounds for b in batches if i < len(b)])


def most_held(workers: list[Ids], size: int) -> int:
    """Return the most runs of `size` samples that are begun and not finished, of all workers."""
    most = 0
    for ids in workers:
        runs = ids // size
        begun = np.sort(np.unique(runs, return_index=True)[1])
        done = np.sort(len(runs) - 1 - np.unique(runs[::-1], return_index=True)[1])
        at = np.arange(len(runs))
        held = np.searchsorted(begun, at, side="right") - np.searchsorted(done, at)
        most += int(held.max())
    return most


def by_windows(n: int, workers: int, seed: int, epoch: int, *, window: int) -> Epoch:
    """Shuffle as pcrstore."""
    edges = np.array([*range(0, n, PART), n], np.int64)
    order = EpochOrder([edges], [n], seed=seed, epoch=epoch, shuffle=window > 0, window=window or 1)
    lines = []
    for shard in range(order.n_shards):
        runs = order.runs(shard)
        records = [np.arange(r.start // RECORD, -(-r.stop // RECORD)) for r in runs]
        edges = [np.array([r.start, r.stop]) for r in runs]
        spans = np.concatenate(
            [
                np.clip(np.stack((k, k + 1), 1) * RECORD, *e)
                for k, e in zip(records, edges, strict=True)
            ]
        )
        line = order.order_of_records(runs, records)
        lines.append(np.concatenate([np.arange(*spans[i]) for i in line]))
    leg = EpochPartition(order, order.all(), Topology(n_workers=workers, batch_size=BATCH))
    shares = [
        np.concatenate([lines[s.shard][order.walk(s)] for s in leg.share(0, worker)])
        for worker in range(workers)
    ]
    first = len(np.unique(shares[0][:BATCH] // RECORD)) * RECORD * IMAGE_MB
    held = most_held(shares, RECORD) * RECORD * IMAGE_MB
    return Epoch(ids=dealt(shares), first_mb=first, held_mb=held)


def by_buffers(n: int, workers: int, seed: int, epoch: int) -> Epoch:
    """Shuffle as WebDataset: shards, and a buffer of each worker."""
    rng = np.random.default_rng((seed, epoch))
    shards = rng.permutation(-(-n // SHARD))
    out, first = [], 0
    for worker in range(workers):
        mine = shards[worker::workers]
        line = np.concatenate([np.arange(s * SHARD, min(n, (s + 1) * SHARD)) for s in mine])
        draws = rng.random(2 * len(line))
        held: list[int] = []
        read = 0
        ids: list[int] = []
        while read < len(line) or held:
            take = 2 if len(held) + 1 < BUFFER else 1
            held += line[read : read + take].tolist()
            read = min(len(line), read + take)
            if len(held) >= INITIAL or read == len(line):
                i = int(draws[len(ids)] * len(held))
                held[i], held[-1] = held[-1], held[i]
                ids.append(held.pop())
                if len(ids) == BATCH and worker == 0:
                    first = read
        out.append(np.array(ids, np.int64))
    return Epoch(ids=dealt(out), first_mb=first * IMAGE_MB, held_mb=BUFFER * workers * IMAGE_MB)


THEIRS: Final = """
import importlib.util, pathlib, sys, types
import numpy as np
# Their shuffles need NumPy alone, their packages' __init__ need torch: do without those.
folder = pathlib.Path(importlib.util.find_spec("streaming").origin).parent
for name, path in (("streaming", folder), ("streaming.base", folder / "base")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(path)]
from streaming.base.shuffle import get_shuffle
name, n, shard, seed, epoch, block = sys.argv[1], *map(int, sys.argv[2:])
sizes = np.array([min(shard, n - i) for i in range(0, n, shard)], np.int64)
np.save(sys.stdout.buffer, get_shuffle(name, sizes, 1, seed, epoch, block))
"""


def by_mds(
    n: int, _workers: int, seed: int, epoch: int, *, name: str, block: int, python: str
) -> Epoch:
    """Shuffle as MosaicML Streaming; its workers take batches of one order in turn."""
    words = [name, *map(str, (n, SHARD, seed, epoch, block))]
    run = subprocess.run([python, "-c", THEIRS, *words], stdout=subprocess.PIPE, check=True)
    ids = np.load(io.BytesIO(run.stdout))
    mb = SHARD * IMAGE_MB
    first = len(np.unique(ids[:BATCH] // SHARD)) * mb
    return Epoch(ids=ids, first_mb=first, held_mb=most_held([ids], SHARD) * mb)


def distinct(ids: Ids, size: int, n: int) -> float:
    """Return the runs of stored neighbours in a batch, of those in a uniform draw."""
    runs = np.sort(ids[: len(ids) // BATCH * BATCH].reshape(-1, BATCH) // size, axis=1)
    found = 1 + (np.diff(runs, axis=1) > 0).sum(axis=1).mean()
    k = n / size
    return float(found / (k * (1 - (1 - 1 / k) ** BATCH)))


def chi2(ids: Ids, classes: Ids) -> float:
    """Return the chi-square of the classes of batches, of its degrees of freedom."""
    of_batches = classes[ids[: len(ids) // BATCH * BATCH]].reshape(-1, BATCH)
    cells = of_batches + CLASSES * np.arange(len(of_batches))[:, None]
    counts = np.bincount(cells.ravel(), minlength=CLASSES * len(of_batches))
    mean = BATCH / CLASSES
    return float(((counts - mean) ** 2 / mean).sum() / len(of_batches) / (CLASSES - 1))


def reunion(a: Ids, b: Ids) -> float:
    """Return how often two samples of a batch of `a` share one of `b`, of uniform."""
    met = np.sort(b[a[: len(a) // BATCH * BATCH]].reshape(-1, BATCH), axis=1)
    # Of a run of k alike k (k - 1) / 2 pairs meet.
    pairs = sum(int((met[:, k:] == met[:, :-k]).sum()) for k in range(1, BATCH))
    return pairs / (len(met) * BATCH * (BATCH - 1) / 2) / ((BATCH - 1) / (len(a) - 1))


def measured(
    name: str, make: Callable[[int], Epoch], n: int, seed: int, n_epochs: int
) -> dict[str, float]:
    """Return the measures of one way of shuffling, means over epochs."""
    in_order = np.arange(n) * CLASSES // n
    mixed = np.random.default_rng((seed, 1)).permutation(in_order)
    before = np.empty(n, np.int64)
    found: dict[str, list[float]] = {k: [] for k in UNITS}
    for number in range(n_epochs + 1):
        epoch = make(number)
        ids, place = epoch.ids, np.empty(n, np.int64)
        place[ids] = np.arange(n)
        if len(ids) != n or not np.array_equal(ids[place], np.arange(n)):
            raise SystemExit(f"{name} does not read every sample once")
        if number:
            batch = place // BATCH
            met = float((batch[1:] == batch[:-1]).mean())
            values = {
                "displacement": float(np.abs(place - np.arange(n)).mean() / (n / 3)),
                "near32": distinct(ids, RECORD, n),
                "near600": distinct(ids, SHARD, n),
                "neighbours": met / ((BATCH - 1) / (n - 1)),
                "reunion": reunion(ids, before // BATCH),
                "correlation": float(np.corrcoef(before, place)[0, 1]),
                "chi2_sorted": chi2(ids, in_order),
                "chi2_shuffled": chi2(ids, mixed),
                "first_mb": epoch.first_mb,
                "held_mb": epoch.held_mb,
            }
            for k, value in values.items():
                found[k].append(value)
        before = place
    return {k: sum(values) / len(values) for k, values in found.items()}


def ways_of(args: argparse.Namespace) -> dict[str, Callable[[int], Epoch]]:
    """Return the ways of shuffling, by name."""
    common = args.images, args.workers, args.seed
    ways: dict[str, Callable[[int], Epoch]] = {}
    for window in (0, *WINDOWS):
        name = f"pcrstore, window {window}" if window else "stored order"
        ways[name] = partial(by_windows, *common, window=window)
    ways["webdataset, shuffle(1000)"] = partial(by_buffers, *common)
    for mds, block in MDS if args.streaming_python else ():
        name = f"mds {mds}, block {block}" if block else f"mds {mds}"
        python = args.streaming_python
        ways[name] = partial(by_mds, *common, name=mds, block=block, python=python)
    return ways


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is simulated."""
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--streaming-python", help="an interpreter that has mosaicml-streaming")


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure every way; compare the default window with WebDataset's buffer."""
    rows = {}
    print(f"1 rank of {args.workers} workers, batches of {BATCH}; uniform is 1 (correlation: 0)")
    print(f"{'':26}" + "".join(f"{k.replace('_', ' '):>14}" for k in UNITS), flush=True)
    for name, make in ways_of(args).items():
        row = rows[name] = measured(name, make, args.images, args.seed, args.epochs)
        for k, unit in UNITS.items():
            report.add(f"{name}: {k.replace('_', ' ')}", row[k], unit, shown=False)
        print(f"{name:26}" + "".join(f"{row[k]:14.3g}" for k in UNITS), flush=True)

    # Where storing has mixed classes, which is the default, only reunion is left to judge. For
    # near32 and neighbours as WebDataset's a window is twice its buffer, where stays have no bound.
    ours, theirs = rows[f"pcrstore, window {DEFAULT}"], rows["webdataset, shuffle(1000)"]
    for k in ("reunion", "chi2_sorted", "chi2_shuffled"):
        title = f"{k.replace('_', ' ')}, window {DEFAULT}"
        report.add(title, ours[k], at_most=max(theirs[k], 1.05), detail="webdataset's, or 1.05")
    report.add(f"before the first batch, window {DEFAULT}", ours["first_mb"], "MB", at_most=64)
