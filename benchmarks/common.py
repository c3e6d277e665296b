"""What the benchmarks share: the data, verdicts, the forty thousand images, processes, an S3.

Data is a folder with `imagenet-sample/` (250 images in class folders), `clothing-small/` (3,781 in
split and class folders) and `odd-jpegs/` (with its MANIFEST.csv), given by `--data` or the
environment variable PCRSTORE_TEST_DATA. Everything written goes below `--work`, by default
`pcrstore-bench` in the system's folder for temporary files.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import pcrstore
from pcrstore.conversion.options import Options

VARIABLE: Final = "PCRSTORE_TEST_DATA"
IMAGENET: Final = "imagenet-sample"
CLOTHING: Final = "clothing-small"
ODD: Final = "odd-jpegs"
LAYOUTS: Final = ("record", "zarr")
BIG: Final = 40_000

Args = ParamSpec("Args")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One figure against what it must be."""

    name: str
    figure: str
    wanted: str
    ok: bool


@dataclass(slots=True)
class Report:
    """Figures and verdicts of one benchmark."""

    benchmark: str
    as_json: bool
    criteria: list[Criterion] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def note(self, name: str, value: object) -> None:
        """Keep a figure that nothing is demanded of."""
        self.figures[name] = value
        if not self.as_json:
            print(f"  {name}: {value}", flush=True)

    def check(self, name: str, figure: str, wanted: str, *, ok: bool) -> None:
        """Keep a figure and its verdict."""
        self.criteria.append(Criterion(name=name, figure=figure, wanted=wanted, ok=ok))
        if not self.as_json:
            verdict = "ok  " if ok else "FAIL"
            print(f"{verdict} {name}: {figure} (wanted {wanted})", flush=True)

    def finish(self) -> int:
        """Print everything as JSON if asked for; return the exit code."""
        failed = [c for c in self.criteria if not c.ok]
        if self.as_json:
            out = {
                "benchmark": self.benchmark,
                "figures": self.figures,
                "criteria": [asdict(c) for c in self.criteria],
            }
            print(json.dumps(out, indent=1, default=str))
        else:
            print(
                f"{self.benchmark}: {len(self.criteria) - len(failed)} of {len(self.criteria)} ok"
            )
        return 1 if failed else 0


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    out = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--data", default=os.environ.get(VARIABLE), help=f"default: ${VARIABLE}")
    out.add_argument("--work", default=None, help="where to write; default: a temporary folder")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--json", action="store_true", dest="as_json")
    return out


def data_folder(given: str | None) -> Path:
    """Return the folder of real JPEGs, or say that it is absent and exit 2."""
    if not given or not (Path(given) / IMAGENET).is_dir():
        sys.stderr.write(
            f"no data: give --data DIR or set {VARIABLE} to a folder with {IMAGENET}, {CLOTHING} "
            f"and {ODD}\n"
        )
        raise SystemExit(2)
    return Path(given)


def work_folder(given: str | None) -> Path:
    """Return the folder to write to, made if need be."""
    path = Path(given) if given else Path(tempfile.gettempdir()) / "pcrstore-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def fresh(path: Path) -> Path:
    """Return a path at which there is nothing now."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def images_of(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def options_of(name: str, layout: str, **more: object) -> Options:
    """Return the options to convert one of the data sets with."""
    return Options(layout=layout, split_dirs=name == CLOTHING, **more)


def repeated(
    data: Path, target: Path, n: int, *, sets: Sequence[str] = (IMAGENET, CLOTHING)
) -> Path:
    """Return a class-per-folder tree of `n` images: the real ones, again under other names.

    One copy of each is made, then hard links, so that the page cache holds all of it.
    """
    done = target.with_name(target.name + ".done")
    if done.exists() and done.read_text() == str(n):
        return target
    fresh(target)
    real = [p for name in sets for p in images_of(data / name)]
    for i in range(n):
        source = real[i % len(real)]
        to = target / source.parent.name / f"{i // len(real):04d}-{source.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        if i < len(real):
            shutil.copyfile(source, to)
        else:
            os.link(target / source.parent.name / f"0000-{source.name}", to)
    done.write_text(str(n))
    return target


def big_dataset(data: Path, work: Path) -> tuple[Path, dict[str, float]]:
    """Return the dataset of 40,000 images and what its conversion took, converting it if need be.

    The figures are images, seconds and the peak of the summed RSS of the process and its workers,
    whose shared pages count once for each of them.
    """
    target, figures = work / "big", work / "big.json"
    if not figures.exists():
        images = repeated(data, work / "big-tree", BIG)
        fresh(target)
        code = (
            "import sys, pcrstore\n"
            "if __name__ == '__main__':\n"
            "    r = pcrstore.convert(sys.argv[1], sys.argv[2], workers=2)\n"
            "    print(r.n_images, r.seconds)\n"
        )
        script = work / "big.py"  # a file: spawned workers import the main module
        script.write_text(code)
        out, peak, most = peak_rss([sys.executable, str(script), str(images), str(target)])
        n, seconds = out.split()
        found = {"images": int(n), "seconds": float(seconds), "peak_rss": peak, "processes": most}
        figures.write_text(json.dumps(found))
    return target, json.loads(figures.read_text())


def peak_rss(
    command: Sequence[str],
    *,
    seconds: float = 3600.0,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, int, int]:
    """Run a command; return its output, the peak of its tree's summed RSS, the most processes.

    Args:
        command: What to run.
        seconds: After which it hangs.
        environment: Its variables, instead of this process's.

    Raises:
        SystemExit: It failed, or took longer than `seconds`.
    """
    end = time.monotonic() + seconds
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak, most = 0, 0
    while run.poll() is None:
        sizes = [rss(pid) for pid in tree(run.pid)]
        peak, most = max(peak, sum(sizes)), max(most, len(sizes))
        if time.monotonic() > end:
            for pid in tree(run.pid):
                os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"{' '.join(command)} hung for {seconds:.0f} s")
        time.sleep(0.05)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {run.returncode}")
    return run.stdout.read() if run.stdout else "", peak, most


def tree(pid: int) -> list[int]:
    """Return a process and those below it."""
    out, at = [pid], 0
    while at < len(out):
        with contextlib.suppress(OSError):  # it may end meanwhile, and so may any thread
            for task in Path(f"/proc/{out[at]}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    out.extend(int(x) for x in task.read_text().split())
        at += 1
    return out


def rss(pid: int) -> int:
    """Return the resident bytes of a process; 0 when it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def timed(f: Callable[Args, Value], *args: Args.args, **kwargs: Args.kwargs) -> tuple[float, Value]:
    """Return how many seconds a call took, and its value."""
    start = time.perf_counter()
    value = f(*args, **kwargs)
    return time.perf_counter() - start, value


def busy_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, fields)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the CPU seconds of this process and of those it waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def timed_among_others(f: Callable[[], object]) -> tuple[float, float]:
    """Return how many seconds a call took, and what share of all cores others used meanwhile."""
    busy, own = busy_seconds(), own_seconds()
    seconds, _ = timed(f)
    others = busy_seconds() - busy - (own_seconds() - own)
    return seconds, max(0.0, others) / seconds / (os.cpu_count() or 1)


def load() -> str:
    """Return the load average, to be printed beside times."""
    return " ".join(f"{x:.1f}" for x in os.getloadavg())


def convert_set(data: Path, work: Path, name: str, layout: str) -> Path:
    """Return a dataset of one of the data sets, converted afresh."""
    target = fresh(work / f"{name}-{layout}")
    pcrstore.convert(str(data / name), str(target), options_of(name, layout), workers=2)
    return target
