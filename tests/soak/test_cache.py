"""Do many processes share a cache that is too small, through kill -9 and damage?

    python -m benchmarks.speed.cache [--rounds 50] [--readers 8] [--reads 1000] [--kills 2] [--json]

Eight processes read a thousand random ranges each from a cache that holds half of the data, as a
reader does: get, check the CRC32C, discard and put again what is damaged or absent. Two of them are
killed with SIGKILL at a random moment, and meanwhile twenty bytes in files of the cache are
changed. That is one round; the cache stays for all of them. No read may return other bytes, no
process may fail, and while the lock is held (so that nothing changes) what lies in the folder must
be within the limit and within the count. Afterwards a process that fills the cache must find no
leftover of the killed.

Then, with nobody else there: what is found in five epochs, each in another order, of twice and four
times the limit, at first in a folder that another job has filled; and what a hit, a miss, a put and
a sweep take. Needs no data.
"""

import fcntl
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np

from benchmarks.common import Report, fresh, load, parser, timed, work_folder
from pcrstore.core.ranges import ByteRange
from pcrstore.storage.cache.cache import Cache, DatasetCache
from pcrstore.storage.cache.files import files
from pcrstore.storage.cache.ledger import MARKER, read_state

URL: Final = "s3://bucket/photos"
N_BODIES: Final = 300
DAMAGES: Final = 20
"""Bytes changed in a round."""


@dataclass(frozen=True, slots=True)
class Data:
    """Bodies, their ranges and their checksums."""

    ranges: list[ByteRange]
    bodies: list[bytes]
    sums: list[int]

    @property
    def n_bytes(self) -> int:
        """Bytes of all bodies."""
        return sum(map(len, self.bodies))


@dataclass(slots=True)
class Tally:
    """What one process, or all, did."""

    n_reads: int = 0
    n_hits: int = 0
    n_damaged: int = 0
    n_wrong: int = 0

    def add(self, other: "Tally") -> None:
        """Add another's."""
        self.n_reads += other.n_reads
        self.n_hits += other.n_hits
        self.n_damaged += other.n_damaged
        self.n_wrong += other.n_wrong


@dataclass(slots=True)
class Looks:
    """What was seen in the folder under the lock."""

    n: int = 0
    most: int = 0
    n_uncounted: int = 0
    limit: int = 0
    seconds: list[float] = field(default_factory=list)


def made(seed: int) -> Data:
    """Return random bodies of 10 to 400 kB."""
    pick = np.random.default_rng(seed)
    sizes = np.exp(pick.uniform(np.log(1e4), np.log(4e5), N_BODIES)).astype(int)
    ranges = [ByteRange(f"objects/{i:04d}", 100, 100 + int(n)) for i, n in enumerate(sizes)]
    bodies = [pick.bytes(int(n)) for n in sizes]
    return Data(ranges, bodies, [google_crc32c.value(b) for b in bodies])


def read(ds: DatasetCache, data: Data, i: int, tally: Tally) -> None:
    """Read one body as a reader does."""
    tally.n_reads += 1
    body = ds.get(data.ranges[i])
    if body is not None and google_crc32c.value(body) != data.sums[i]:
        ds.discard(data.ranges[i])
        tally.n_damaged += 1
        body = None
    if body is None:
        ds.put(data.ranges[i], data.bodies[i])
        return
    tally.n_hits += 1
    tally.n_wrong += body != data.bodies[i]


def reader(cache: Cache, data: Data, seed: int, n: int, result: Path) -> None:
    """Read n random bodies; write down what happened."""
    ds, tally = cache.of(URL), Tally()
    pick = random.Random(seed)  # noqa: S311 - which bodies
    for _ in range(n):
        read(ds, data, pick.randrange(N_BODIES), tally)
    result.write_text(json.dumps(asdict(tally)))


def look(folder: Path, looks: Looks) -> None:
    """Count what lies in the folder while nobody may change it."""
    start = time.perf_counter()
    with (folder / MARKER).open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        there = sum(file.n_bytes for file in files(folder))
        state = read_state(folder)
    looks.n += 1
    looks.most = max(looks.most, there)
    looks.n_uncounted += state is not None and there > state.used
    looks.seconds.append(time.perf_counter() - start)


def damage(folder: Path, pick: random.Random) -> int:
    """Change a byte of a random body; return how many (a file may go meanwhile)."""
    found = [file for file in files(folder) if file.is_body]
    if not found:
        return 0
    chosen = pick.choice(found)
    try:
        file = os.open(chosen.path, os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        at = pick.randrange(chosen.n_bytes)
        byte = os.pread(file, 1, at)
        os.pwrite(file, bytes([byte[0] ^ (1 + pick.randrange(255))]), at)
    finally:
        os.close(file)
    return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a round is run."""

    folder: Path
    results: Path
    readers: int
    reads: int
    kills: int


def one_round(
    cache: Cache, data: Data, setting: Setting, seed: int, looks: Looks, guess: float
) -> tuple[Tally, int, int, float]:
    """Run a round; return what was read, failed processes, damages and seconds."""
    fork = multiprocessing.get_context("fork")
    pick = random.Random(seed)  # noqa: S311 - when to kill, what to damage
    results = [setting.results / f"{seed}-{p}.json" for p in range(setting.readers)]
    running = [
        fork.Process(target=reader, args=(cache, data, 1000 * seed + p, setting.reads, results[p]))
        for p in range(setting.readers)
    ]
    start = time.perf_counter()
    for process in running:
        process.start()
    at = sorted(pick.uniform(0, guess) for _ in range(setting.kills + DAMAGES))
    doomed = sorted(pick.sample(range(len(at)), setting.kills))
    victims, n_damages = running[: setting.kills], 0
    for n, moment in enumerate(at):
        time.sleep(max(0.0, start + moment - time.perf_counter()))
        if n in doomed:
            victims[doomed.index(n)].kill()
            look(setting.folder, looks)
        else:
            n_damages += damage(setting.folder, pick)
    for process in running:
        process.join(120)
    seconds = time.perf_counter() - start
    look(setting.folder, looks)
    total = Tally()
    for result in results:
        if result.exists():
            total.add(Tally(**json.loads(result.read_text())))
    failed = [p for p in running[setting.kills :] if p.exitcode != 0]
    failed += [p for p in victims if p.exitcode not in (0, -9)]
    return total, len(failed), n_damages, seconds


def rounds(report: Report, work: Path, n_rounds: int, readers: int, reads: int, kills: int) -> None:
    """Run all rounds and judge them."""
    data = made(0)
    limit = data.n_bytes // 2
    folder = fresh(work / "cache")
    setting = Setting(
        folder=folder,
        results=fresh(work / "results"),
        readers=readers,
        reads=reads,
        kills=kills,
    )
    setting.results.mkdir(parents=True)
    cache = Cache(folder, limit=limit)
    looks, total, failed, damages, seconds = Looks(limit=limit), Tally(), 0, 0, 1.0
    took = []
    for seed in range(n_rounds):
        found, n_failed, n_damages, seconds = one_round(cache, data, setting, seed, looks, seconds)
        total.add(found)
        failed += n_failed
        damages += n_damages
        took.append(seconds)
    left = sum(not file.is_body for file in files(folder))
    last = Tally()
    for i in [*range(N_BODIES), *range(N_BODIES)]:
        read(cache.of(URL), data, i, last)
    leftover = sum(not file.is_body for file in files(folder))
    state = read_state(folder)
    used = sum(file.n_bytes for file in files(folder))
    report.note("rounds", f"{n_rounds} of {readers} processes, {kills} killed in each")
    report.note("seconds a round", f"{statistics.median(took):.2f} (median), load {load()}")
    report.note("reads", f"{total.n_reads:,} by those that lived, {total.n_hits:,} hits")
    report.check(
        "wrong bytes",
        f"{total.n_wrong + last.n_wrong} of {total.n_reads:,}",
        "0",
        ok=not total.n_wrong + last.n_wrong and total.n_reads > 0,
    )
    report.check("processes that failed", str(failed), "0", ok=not failed)
    report.check(
        "damaged bodies noticed",
        f"{total.n_damaged} of {damages} damages, others were evicted or seen by the killed",
        "some",
        ok=total.n_damaged > 0,
    )
    report.check(
        "most that lay in the folder",
        f"{looks.most / limit:.4f} of the limit of {limit / 1e6:.1f} MB, {looks.n} looks",
        "at most 1",
        ok=looks.most <= limit,
    )
    report.check(
        "looks at which the count was too low",
        str(looks.n_uncounted),
        "0",
        ok=not looks.n_uncounted,
    )
    report.check(
        "temporaries left behind",
        f"{left} after the kills, {leftover} when it was filled again",
        "0 in the end",
        ok=not leftover,
    )
    report.check(
        "the count in the end",
        f"{state.used if state else None}",
        f"{used}",
        ok=state is not None and state.used == used,
    )


def pass_on(cache: Cache, seconds: float) -> None:
    """Let time pass: everything was that much longer ago."""
    cache.folder.since -= seconds
    for file in files(cache.folder.path):
        os.utime(file.path, (file.mtime - seconds,) * 2)


def epochs(report: Report, work: Path, times: int) -> None:
    """Read `times` the limit in random order, epoch after epoch of an hour; judge what is found."""
    n, size, n_epochs, steps = 400, 1000, 5, 20
    folder = fresh(work / "epochs")
    limit = n * size // times
    before = Cache(folder, limit=limit)
    for i in range(n // times):
        before.of("s3://bucket/others").put(ByteRange(f"{i}", 0, size), bytes(size))
    pass_on(before, 3600)
    cache = Cache(folder, limit=limit)
    ds = cache.of(URL)
    pick = random.Random(times)  # noqa: S311 - the orders
    shares = []
    for _ in range(n_epochs):
        hits = ds.n_hits
        order = pick.sample(range(n), n)
        for at, i in enumerate(order):
            wanted = ByteRange(f"objects/{i}", 0, size)
            if ds.get(wanted) is None:
                ds.put(wanted, bytes(size))
            if at % (n // steps) == 0:
                pass_on(cache, 3600 / steps)
        shares.append((ds.n_hits - hits) / n)
    report.check(
        f"found of {times} times the limit, epoch by epoch",
        ", ".join(f"{share:.3f}" for share in shares),
        f"{1 / times} from the second on",
        ok=all(0.9 / times <= share <= 1 / times for share in shares[1:]),
    )


def costs(report: Report, work: Path, n_entries: int) -> None:
    """Measure each operation alone."""
    size = 100_000
    body = np.random.default_rng(1).bytes(size)
    few = 500
    ranges = [ByteRange(f"objects/{i}", 0, size) for i in range(few)]
    ds = Cache(fresh(work / "costs"), limit="10gb").of(URL)
    seconds = {
        "put": timed(lambda: [ds.put(r, body) for r in ranges])[0],
        "hit": timed(lambda: [ds.get(r) for r in ranges])[0],
        "miss": timed(lambda: [ds.get(ByteRange("none", i, i + 9)) for i in range(few)])[0],
    }
    for name, took in seconds.items():
        report.note(f"{name} of {size // 1000} kB", f"{took / few * 1e6:.0f} us")
    folder = fresh(work / "many")
    cache = Cache(folder, limit=n_entries)
    ds = cache.of(URL)
    took, _ = timed(
        lambda: [ds.put(ByteRange(f"objects/{i}", 0, 1), b"x") for i in range(n_entries)]
    )
    report.note("put of a byte", f"{took / n_entries * 1e6:.0f} us")
    few = n_entries // 10
    took, _ = timed(lambda: [ds.put(ByteRange(f"more/{i}", 0, 1), b"x") for i in range(few - 1)])
    report.note("put that is refused", f"{took / (few - 1) * 1e6:.0f} us")
    pass_on(cache, 100)
    ds = Cache(folder, limit=n_entries).of(URL)  # for which all that is there is stale
    took, _ = timed(lambda: ds.put(ByteRange("one more", 0, 1), b"x"))
    report.note(f"sweep of {n_entries:,} entries, a tenth removed", f"{took:.2f} s")


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--rounds", type=int, default=50)
    p.add_argument("--readers", type=int, default=8)
    p.add_argument("--reads", type=int, default=1000)
    p.add_argument("--kills", type=int, default=2)
    p.add_argument("--entries", type=int, default=50_000)
    args = p.parse_args()
    work = work_folder(args.work) / "cache"
    report = Report(benchmark="cache", as_json=args.as_json)
    rounds(report, work, args.rounds, args.readers, args.reads, args.kills)
    for times in (2, 4):
        epochs(report, work, times)
    costs(report, work, args.entries)
    fresh(work)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
