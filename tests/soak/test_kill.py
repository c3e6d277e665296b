"""Does a conversion survive `kill -9` at any moment?

    python -m tests.soak.test_crash [--kills 20] [--json]

`pcrstore convert` runs as a subprocess with two workers; its whole process group is killed at a
random moment: half of them anywhere in the time it takes, half shortly after it has noted a random
number of its units, the last of which is followed by the commit. The same command then goes on.
The dataset must equal an uninterrupted run's byte for byte, but for the manifest's writer and time;
and a reader that opens the destination again and again meanwhile must have seen nothing or
everything. Three ways to store: the record layout, the
zarr layout held in memory until its end, and the zarr layout that stores chunks as they fill (as
for large sources).
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.common import (
    IMAGENET,
    Report,
    data_folder,
    fresh,
    images_of,
    parser,
    repeated,
    timed,
    work_folder,
)
from pcrstore.dataset.versions import read_manifest
from pcrstore.storage.local import TEMPORARY
from pcrstore.storage.open import open_store

N_IMAGES: Final = 100
N_UNITS: Final = 5
"""Units that these images make at least."""

WAYS: Final[dict[str, dict[str, object]]] = {
    "record": {"layout": "record"},
    "zarr": {"layout": "zarr"},
    "zarr by chunks": {"layout": "zarr", "hold_bytes": 0, "chunk_bytes": 2**20},
}
SIZES: Final = {"record_bytes": 2**20, "object_bytes": 2**21}

RUN: Final = """
import json, sys, pcrstore
if __name__ == "__main__":
    options = pcrstore.Options(**json.loads(sys.argv[3]))
    print(pcrstore.convert(sys.argv[1], sys.argv[2], options, workers=2).n_resumed)
"""


def command(work: Path, source: Path, target: Path, way: dict[str, object]) -> list[str]:
    """Return the command line: `pcrstore convert`, but for options it does not have."""
    if "hold_bytes" not in way:
        sizes = [f"--{k.replace('_', '-')}={v}" for k, v in SIZES.items()]
        arguments = [str(source), str(target), "--layout", str(way["layout"]), "--workers", "2"]
        return [sys.executable, "-m", "pcrstore", "convert", *arguments, *sizes]
    script = work / "run.py"
    script.write_text(RUN)
    return [sys.executable, str(script), str(source), str(target), json.dumps({**way, **SIZES})]


@dataclass(slots=True)
class Watcher:
    """Opens a dataset in a loop and counts what it sees: nothing, all, or something else."""

    target: Path
    n_images: int
    seen: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> Counter[str]:
        """Stop, after a last look."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self.seen

    def _look(self) -> None:
        pick = random.Random(0)  # noqa: S311 - which images to look at
        while True:
            last = self._stop.is_set()
            try:
                ds = pcrstore.open(str(self.target))
                images = pick.sample(range(self.n_images), 3)
                whole = len(ds) == self.n_images and all(ds.fetch(images, "full"))
                self.seen["all" if whole else "half"] += 1
            except pcrstore.NotFoundError as e:
                # A manifest whose objects are missing is a half; no manifest is nothing.
                self.seen["nothing" if "no manifest" in str(e) else f"half: {e}"] += 1
            except pcrstore.PcrstoreError as e:
                self.seen[f"half: {e}"] += 1
            if last:
                return
            time.sleep(0.01)


def contents(target: Path) -> dict[str, bytes]:
    """Return every object but manifests."""
    store = open_store(str(target))
    return {e.name: store.get(e.name) for e in store.list("") if "manifests/" not in e.name}


def finished_units(target: Path) -> int:
    """Return how many units a conversion has noted."""
    return len(list(target.glob("staging/*/*/unit-*")))


def kill_at(run: list[str], target: Path, n_units: int, moment: float) -> tuple[bool, int]:
    """Run a command and kill its process group.

    Args:
        run: The command.
        target: What it writes.
        n_units: Wait until so many units are noted.
        moment: Then, seconds to wait.

    Returns:
        Whether it was still running, and the units noted then.
    """
    process = subprocess.Popen(
        run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while finished_units(target) < n_units and process.poll() is None:
        time.sleep(0.001)
    time.sleep(moment)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive, finished_units(target)


def crash(report: Report, work: Path, source: Path, title: str, kills: int, seed: int) -> None:
    """Kill one kind of conversion again and again, each time from nothing."""
    way = WAYS[title]
    n = len(images_of(source))
    base = fresh(work / "whole")
    run = command(work, source, base, way)
    took, _ = timed(subprocess.run, run, check=True, capture_output=True)
    expected, expected_manifest = contents(base), read_manifest(open_store(str(base)), 1)
    pick = random.Random(seed)  # noqa: S311 - when to kill
    n_units = sum(name.startswith("objects/") for name in expected) or N_UNITS
    moments = [(0, pick.uniform(0.0, took)) for _ in range(kills // 2)]
    moments += [
        (pick.randint(1, n_units), pick.uniform(0.0, 0.05)) for _ in range(kills - len(moments))
    ]
    same, alive, found, stray, progress = 0, 0, Counter[str](), 0, []
    for units, moment in moments:
        target = fresh(work / "killed")
        run = command(work, source, target, way)
        watcher = Watcher(target, n)
        watcher.start()
        was_alive, noted = kill_at(run, target, units, moment)
        alive += was_alive
        progress.append(noted)
        committed = any((target / "manifests").glob("*.pcrm"))
        stored = [p for p in target.rglob("*") if p.is_file() and "staging" not in p.parts]
        stray += sum(p.name.startswith(TEMPORARY) for p in stored)
        subprocess.run(run, check=True, capture_output=True)
        seen = watcher.stop()
        found += seen
        bad = [k for k in seen if k.startswith("half")]
        store = open_store(str(target))
        manifest = read_manifest(store, 1)
        equal = contents(target) == expected and manifest.same_content(expected_manifest)
        same += equal and not bad and not (committed and not seen["all"])
    report.note(
        f"{title}: uninterrupted",
        f"{took:.1f} s, {len(expected)} objects, units finished when killed {sorted(progress)}, "
        f"temporaries left by the dead {stray}",
    )
    report.check(
        f"{title}: killed {alive} of {kills} times, resumed to the same bytes",
        f"{same} of {kills}; a reader saw {dict(found)}",
        "all; nothing or all",
        ok=same == kills and not any(k.startswith("half") for k in found) and alive >= kills // 2,
    )


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--kills", type=int, default=20)
    args = p.parse_args()
    data, work = data_folder(args.data), work_folder(args.work) / "crash"
    work.mkdir(exist_ok=True)
    report = Report(benchmark="crash", as_json=args.as_json)
    source = repeated(data, work / "tree", N_IMAGES, sets=(IMAGENET,))
    for title in WAYS:
        crash(report, work, source, title, args.kills, args.seed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
