"""Do worker processes start and read everything, whatever their parent did before?

    python -m tests.soak.test_start [--runs 50] [--json]

A loader with two workers reads an epoch from a loopback S3, again and again: started by fork, spawn
and forkserver, through fsspec (s3fs) and obstore, by a parent that made the loader from a URL and
by one that had read through the engine before. After a fork obstore hangs, so a forked child whose
parent used it must read through fsspec and say so once; nobody else has anything to say. A run that
takes over a minute counts as a hang. A parent makes ten runs, each with new workers.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.common import IMAGENET, Report, data_folder, fresh, parser, repeated, work_folder
from benchmarks.server.counting import BUCKET, CountingS3
from pcrstore.conversion.options import Options

N_IMAGES: Final = 48
N_WORKERS: Final = 2
RUNS_OF_A_PARENT: Final = 10
HANGS: Final = 60.0
"""Seconds without a word after which a run is killed."""

METHODS: Final = ("fork", "spawn", "forkserver")
ENGINES: Final = ("fsspec", "obstore")

RUN: Final = """
import json, sys
import pcrstore
from pcrstore.torch import Loader

def run(url, options, method, engine, has_read, n_workers):
    dataset = url
    if has_read:
        dataset, options = pcrstore.open(url, options, engine=engine), None
        dataset.read([0], 1)
        engine = "auto"
    loader = Loader(
        dataset, 4, fidelity=1, size=16, num_workers=n_workers, positions=True,
        multiprocessing_context=method, engine=engine, storage_options=options,
    )
    return [p for *_, positions in loader for p in positions.tolist()]

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    for _ in range(asked.pop("runs")):
        print(json.dumps(run(**asked)), flush=True)
"""


@dataclass(slots=True)
class Found:
    """What the runs of one kind came to."""

    runs: int = 0
    whole: int = 0
    """Runs that gave every sample once."""
    hangs: int = 0
    failures: int = 0
    """Parents that ended with an error."""
    warnings: int = 0
    seconds: float = 0.0
    """Of all runs, starting their parents included."""


def parent(work: Path, asked: dict[str, object], runs: int, found: Found) -> None:
    """Let a new process make some runs; it may stop before the last."""
    script, out, err = work / "run.py", work / "out", work / "err"
    script.write_text(RUN)
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(script), json.dumps({**asked, "runs": runs})],
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**os.environ, "PYTHONWARNINGS": "always::RuntimeWarning"},
        )
    size, since = 0, time.monotonic()
    while process.poll() is None and time.monotonic() - since < HANGS:
        time.sleep(0.02)
        if out.stat().st_size != size:
            size, since = out.stat().st_size, time.monotonic()
    hung = process.poll() is None
    if hung:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found.runs += len(rows) + (len(rows) < runs)
    found.whole += sum(sorted(row) == list(range(N_IMAGES)) for row in rows)
    found.hangs += hung
    found.failures += not hung and process.returncode != 0
    found.warnings += err.read_text(errors="replace").count("ForkedObstoreWarning: ")


def measure(work: Path, asked: dict[str, object], runs: int) -> Found:
    """Make runs of one kind, by as many parents as it takes."""
    found, start = Found(), time.monotonic()
    while found.runs < runs:
        parent(work, asked, min(RUNS_OF_A_PARENT, runs - found.runs), found)
    found.seconds = time.monotonic() - start
    return found


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--runs", type=int, default=50)
    args = p.parse_args()
    data, work = data_folder(args.data), work_folder(args.work) / "start"
    work.mkdir(exist_ok=True)
    report = Report(benchmark="start", as_json=args.as_json)
    tree = repeated(data, work / "tree", N_IMAGES, sets=(IMAGENET,))
    target = fresh(work / "bucket" / "ds")
    pcrstore.convert(str(tree), str(target), Options(record_images=4), workers=1)
    with CountingS3(target.parent) as s3:
        for method, engine, has_read in product(METHODS, ENGINES, (False, True)):
            found = measure(
                work,
                {
                    "url": f"s3://{BUCKET}/ds",
                    "options": s3.options,
                    "method": method,
                    "engine": engine,
                    "has_read": has_read,
                    "n_workers": N_WORKERS,
                },
                args.runs,
            )
            poisoned = method == "fork" and engine == "obstore" and has_read
            warnings = N_WORKERS * args.runs if poisoned else 0
            report.check(
                f"{method}, {engine}, the parent {'had read' if has_read else 'made the loader'}",
                f"{found.whole} of {found.runs} whole, {found.hangs} hangs, {found.failures} "
                f"failures, {found.warnings} warnings, {found.seconds:.0f} s",
                f"{args.runs} whole, {warnings} warnings",
                ok=found.whole == found.runs == args.runs
                and not found.hangs
                and not found.failures
                and found.warnings == warnings,
            )
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
