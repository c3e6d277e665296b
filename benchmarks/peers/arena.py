"""Who runs in `peers`, on which link, and what one run of one of them gives.

Each contestant is a driver in a process of its own at the client's end of the link. Rounds are
interleaved: every contestant once, in a shuffled order, then all of them again.
"""

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.data import fresh
from benchmarks.measuring import peak_rss, timed_among_others
from benchmarks.peers.client import Asked
from benchmarks.peers.environment import environment
from benchmarks.results import middle
from benchmarks.server.shaped import Shaped

THREADS: Final = 2
WORKERS: Final = 2
_RUN_SECONDS: Final = 1800.0
"""After which a run has hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A link."""

    name: str
    mbit: float = 0.0
    rtt_ms: float = 0.0
    first_byte_ms: float = 0.0


FREE: Final = "no limit"
WAN: Final = "200 Mbit/s, 20 ms"
LATE: Final = "1 Gbit/s, 30 ms first byte"
CASES: Final = (
    Case(name=FREE),
    Case(name=WAN, mbit=200, rtt_ms=20),
    Case(name=LATE, mbit=1000, first_byte_ms=30),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A driver and what it is asked."""

    name: str
    driver: str
    dataset: str
    """A peer's format, or a scan script."""
    fidelity: int = 0
    """Of what it is limited by; -1 is the source files."""
    threads: bool = False
    """Threads in one process instead of workers."""
    cached: bool = False
    scaled: bool = False
    """Decode at 1/2, 1/4 or 1/8 where the crop is large enough: no peer does."""
    every_row: bool = False
    """Decode rows below a crop too, as every peer does: the same pixels, later."""

    @property
    def is_peer(self) -> bool:
        """Whether it reads the source files."""
        return self.driver != "pcrstore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What bounds a contestant: bytes and computing, from memory."""

    images_per_s: float
    """Decode, crop and collate from memory."""
    mean_bytes: float
    """Stored bytes of an image at its fidelity."""


@dataclass(slots=True)
class Runs:
    """Runs of one contestant in one case, in the order of the rounds."""

    epochs: list[list[dict[str, float]]] = field(default_factory=list)
    """Of each run: the cold epoch, then warm ones; as `_client.Epoch`."""
    peak_rss: list[int] = field(default_factory=list)
    """Of the summed RSS of its processes, in bytes."""
    others: list[float] = field(default_factory=list)
    """Share of all cores that server and link took meanwhile, which run on the same machine."""
    failures: list[str] = field(default_factory=list)

    def values(self, figure: str, epoch: int = 0) -> list[float]:
        """Return a figure of an epoch in each run."""
        return [run[epoch][figure] for run in self.epochs if len(run) > epoch]

    def median(self, figure: str, epoch: int = 0) -> float:
        """Return the median over runs of a figure of an epoch; nan without one."""
        return middle(self.values(figure, epoch))


PEERS: Final = tuple(
    Contestant(name=title, driver=name, dataset=name, fidelity=-1)
    for title, name in (("MDS", "mds"), ("WebDataset", "webdataset"), ("LitData", "litdata"))
)


COMPUTE_BOUND: Final = ("pcrstore k=3", "pcrstore spec5, full")
"""Whose speed is compared where nothing limits the link."""


def contestants(fidelities: Sequence[int]) -> tuple[Contestant, ...]:
    """Return the peers, and pcrstore at each fidelity by threads and by workers."""
    out = list(PEERS)
    for k in fidelities:
        for threads, how in ((True, ""), (False, ", workers")):
            out.append(
                Contestant(
                    name=f"pcrstore k={k}{how}",
                    driver="pcrstore",
                    dataset="sa5",
                    fidelity=k,
                    threads=threads,
                )
            )
    spec5 = Contestant(
        name="pcrstore spec5, full", driver="pcrstore", dataset="spec5", fidelity=5, threads=True
    )
    cached = Contestant(
        name="pcrstore k=3, cache", driver="pcrstore", dataset="sa5", fidelity=3, threads=True,
        cached=True,
    )  # fmt: skip
    scaled = Contestant(
        name="pcrstore k=3, scaled", driver="pcrstore", dataset="sa5", fidelity=3, threads=True,
        scaled=True,
    )  # fmt: skip
    every_row = (
        replace(one, name=f"{one.name}, every row", every_row=True)
        for one in (*out, spec5)
        if one.name in COMPUTE_BOUND
    )
    return (*out, spec5, cached, scaled, *every_row)


class Arena:
    """Runs contestants against one served folder."""

    def __init__(
        self, work: Path, python: Path, served: Shaped | None, *, epochs: int, seed: int
    ) -> None:
        self._work = work
        self._python = python
        self._served = served
        self._epochs = epochs
        self._seed = seed
        self._environment = environment(work)
        self.log = work / "drivers.log"

    def run(self, who: Contestant, dataset: str, n_images: int, n_shards: int, runs: Runs) -> None:
        """Run a contestant once and keep what it prints."""
        folder = fresh(self._work / "run")
        folder.mkdir()
        asked = Asked(
            endpoint=self._served.endpoint if self._served else "",
            dataset=dataset,
            n_images=0 if who.is_peer else n_images,
            work=str(folder),
            epochs=self._epochs,
            fidelity=max(0, who.fidelity),
            num_workers=0 if who.threads else WORKERS,
            n_threads=THREADS if who.threads else None,
            seed=self._seed,
            cached=who.cached,
            every_row=who.every_row,
            more={"n_shards": n_shards} if who.is_peer else {"dct_scaling": who.scaled},
        )

        def once() -> None:
            out, peak = self.driver(who.driver, asked)
            runs.epochs.append(out["epochs"])
            runs.peak_rss.append(peak)

        try:
            _, others = timed_among_others(once)
        except SystemExit as e:
            runs.failures.append(f"{str(e).rpartition('}')[2].strip()}, see {self.log.name}")
        else:
            runs.others.append(others)

    def limit(self, dataset: Path, fidelity: int, seconds: float) -> Limit:
        """Measure what decoding from memory gives."""
        asked = Asked(dataset=str(dataset), fidelity=fidelity, n_threads=THREADS, seconds=seconds)
        out, _ = self.driver("memory", asked)
        return Limit(**out)

    def bulk(self, keys: Sequence[str], seconds: float) -> float:
        """Return the bytes per second of 16 streams of the same objects."""
        asked = {
            "endpoint": self._served.endpoint if self._served else "",
            "keys": list(keys),
            "streams": 16,
            "seconds": seconds,
        }
        out, _ = self._process("bulk", json.dumps(asked))
        return float(out["bytes_per_s"])

    def driver(self, name: str, asked: Asked) -> tuple[dict, int]:
        """Run a driver; return what it printed and the peak of its tree's RSS."""
        return self._process(name, asked.argv())

    def _process(self, name: str, argument: str) -> tuple[dict, int]:
        module = "benchmarks.server.bulk" if name == "bulk" else f"benchmarks.peers.driver_{name}"
        inner = [str(self._python), "-m", module, argument]
        command = self._served.command(inner) if self._served else inner
        # Peers print progress; what goes wrong is in the log.
        quiet = ["sh", "-c", f'exec "$@" 2>>"{self.log}"', name, *command]
        out, peak, _ = peak_rss(quiet, seconds=_RUN_SECONDS, environment=self._environment)
        return json.loads(out.strip().splitlines()[-1]), peak


def prepare_peers(python: Path, images: Path, bucket: Path, work: Path, shard_bytes: int) -> None:
    """Write the base data sets of the peers."""
    asked = {"images": str(images), "bucket": str(bucket), "shard_bytes": shard_bytes}
    with (work / "drivers.log").open("a") as log:
        subprocess.run(
            [str(python), "-m", "benchmarks.peers.shards", json.dumps(asked)],
            check=True,
            env=environment(work),
            stdout=log,
            stderr=log,
        )


def interleaved(
    who: Sequence[Contestant], rounds: int, seed: int, once: Callable[[Contestant], None]
) -> None:
    """Call `once` for every contestant in every round, each round in an order of its own."""
    generator = random.Random(seed)
    for _ in range(rounds):
        for one in generator.sample(who, len(who)):
            once(one)
