"""Conversion: speed against `jpegtran` subprocesses, which everybody can run, and memory.

    python -m benchmarks convert [--images 2000] [--rounds 3]

- The C transcoder alone against `jpegtran -scans` with the same script, one core each, image by
  image in turns: at least 1.1 times as fast. Alone means what jpegtran does, reading and writing,
  which is the C function's `reencode`. The times with its output read back and compared, with the
  coding of the source again for `original`, and of all of `transcode` are printed beside.
- The whole `convert --workers 1` (reading, transcoding, verifying, measuring quality, writing)
  against those jpegtran processes on the same files: at least 0.6 times as fast.
- `convert --workers 2` against `--workers 1`: at least 1.7 times.
- Peak RSS of the process tree on 40,000 images: under 1 GiB. The first run takes minutes.

The page cache is warm: everything is read once before. What others used of the cores meanwhile is
printed, and of whole conversions the rounds count in which that was little (`--quiet`), if there is
one; what `--workers 2` can reach is said by two jpegtran processes at a time, which share nothing.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.data import CLOTHING, IMAGENET, big_dataset, fresh, images_of, repeated
from benchmarks.measuring import load, timed, timed_among_others
from benchmarks.needs import JPEGTRAN, data, free_disk
from benchmarks.results import Report
from pcrstore._native import _transcoder
from pcrstore.jpeg import DEFAULT_LIMITS, Script, builtin, transcode
from pcrstore.jpeg.coding import pack_scan, read_coding
from pcrstore.jpeg.parser import Jpeg, identity_segments, parse
from pcrstore.jpeg.scan_script import ScanSpec

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDS: Final = (data(IMAGENET, CLOTHING), JPEGTRAN, free_disk(8))
SCRIPT: Final = builtin("sa5")
LIMITS: Final = (DEFAULT_LIMITS.max_pixels, DEFAULT_LIMITS.max_scans, DEFAULT_LIMITS.max_memory)


def scans_file(work: Path, data: bytes, script: Script) -> Path:
    """Return a file for `jpegtran -scans` that says what the script means for this image."""
    jpeg = parse(data)
    specs = script.expand(jpeg.frame, jpeg.model)
    path = work / f"scans-{len(jpeg.frame.components)}-{jpeg.model.name}.txt"
    if not path.exists():
        path.write_text("".join(f"{_line(s)}\n" for s in specs))
    return path


def _line(s: ScanSpec) -> str:
    return f"{' '.join(map(str, s.components))}: {s.ss}-{s.se}, {s.ah}, {s.al};"


def jpegtran(path: Path, scans: Path) -> None:
    """Transcode one file as a subprocess, into nothing."""
    command = ["jpegtran", "-copy", "none", "-scans", str(scans), "-outfile", os.devnull, str(path)]
    subprocess.run(command, check=True, capture_output=True)


def packed(jpeg: Jpeg) -> bytes:
    """Return the script's scans of an image as the C transcoder takes them."""
    specs = SCRIPT.expand(jpeg.frame, jpeg.model)
    return b"".join(pack_scan(s.components, (s.ss, s.se, s.ah, s.al)) for s in specs)


def alone(data: bytes) -> None:
    """Transcode one file in C without verification; luma and chroma have tables of their own."""
    jpeg = parse(data)
    slots = bytes(min(i, 1) for i in range(len(jpeg.frame.components)))
    _transcoder.reencode(data, (packed(jpeg), None, slots, 0), *LIMITS)


def native(data: bytes, *, again: bool) -> None:
    """Transcode one file in C, verified, and with `again` coded as its source too."""
    jpeg = parse(data)
    coding = read_coding(data, jpeg) if again else None
    _transcoder.transcode(
        data,
        identity_segments(data, jpeg),
        packed(jpeg),
        None if coding is None else coding.packed,
        *LIMITS,
    )


def codec(report: Report, data: Path, work: Path, rounds: int) -> None:
    """Compare the transcoder with jpegtran image by image, in turns."""
    files = images_of(data / IMAGENET)
    scans = {p: scans_file(work, p.read_bytes(), SCRIPT) for p in files}
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        spent = dict.fromkeys(
            ("jpegtran", "alone", "verified", "with original", "transcode()"), 0.0
        )
        for i, p in enumerate(files):
            source = p.read_bytes()
            jobs: list[tuple[str, Callable[[], object]]] = [
                ("jpegtran", lambda: jpegtran(p, scans[p])),  # noqa: B023 - called in this turn
                ("alone", lambda: alone(source)),  # noqa: B023
                ("verified", lambda: native(source, again=False)),  # noqa: B023
                ("with original", lambda: native(source, again=True)),  # noqa: B023
                ("transcode()", lambda: transcode(source, SCRIPT)),  # noqa: B023
            ]
            for name, job in jobs[i % 5 :] + jobs[: i % 5]:
                spent[name] += timed(job)[0]
        for name, seconds in spent.items():
            ratios.setdefault(name, []).append(spent["jpegtran"] / seconds)
        rates = {name: round(len(files) / seconds, 1) for name, seconds in spent.items()}
        print(f"images/s: {rates} (load {load()})", flush=True)
    for name in ("verified", "with original", "transcode()"):
        report.add(f"C transcoder {name} / jpegtran", ratios[name])
    report.add("C transcoder alone / jpegtran", ratios["alone"], at_least=1.1)


def convert(source: Path, target: Path, workers: int) -> None:
    """Run the command, start of the interpreter included."""
    command = [sys.executable, "-m", "pcrstore", "convert", str(source), str(fresh(target))]
    subprocess.run([*command, "--workers", str(workers)], check=True, capture_output=True)


def whole(report: Report, data: Path, work: Path, n: int, rounds: int, quiet: float) -> None:
    """Compare whole conversions with jpegtran on the same files."""
    source = repeated(data, work / "tree", n)
    files = images_of(source)
    scans = {p: scans_file(work, p.read_bytes(), SCRIPT) for p in files}

    def tools(workers: int) -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda p: jpegtran(p, scans[p]), files))

    jobs: dict[str, Callable[[], None]] = {
        "jpegtran": lambda: tools(1),
        "two jpegtran": lambda: tools(2),
        "--workers 1": lambda: convert(source, work / "out", 1),
        "--workers 2": lambda: convert(source, work / "out", 2),
    }
    found: list[dict[str, tuple[float, float]]] = []
    for _ in range(rounds):
        found.append({name: timed_among_others(job) for name, job in jobs.items()})
        rates = {k: f"{n / s:.1f} ({others:.0%})" for k, (s, others) in found[-1].items()}
        print(f"images/s (share of all cores that others used): {rates}", flush=True)

    def ratio(a: str, b: str, at_least: float | None = None) -> None:
        alone = [r for r in found if max(r[a][1], r[b][1]) <= quiet]
        said = f"{len(alone)} quiet rounds of {len(found)}" if alone else "no quiet round"
        values = [r[b][0] / r[a][0] for r in alone or found]
        report.add(f"{a} / {b}, {n} images", values, at_least=at_least, detail=said)

    ratio("--workers 1", "jpegtran", 0.6)
    ratio("two jpegtran", "jpegtran")
    ratio("--workers 2", "--workers 1", 1.7)


def memory(report: Report, data: Path, top: Path) -> None:
    """Measure the peak RSS of the conversion of 40,000 images."""
    _, figures = big_dataset(data, top)
    images = f"{figures['images']} images"
    report.add(
        f"peak RSS, {images}, {figures['processes']} processes",
        figures["peak_rss"], "B", at_most=2**30,
    )  # fmt: skip
    report.add(f"speed, {images}", figures["images"] / figures["seconds"], "images/s")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is run and how often."""
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quiet", type=float, default=0.1, help="share of cores others may use")
    parser.add_argument("--only", choices=["codec", "whole", "rss"], help="one of the three")


def run(args: argparse.Namespace, report: Report) -> None:
    """Run everything."""
    work = args.work / "convert"
    work.mkdir(exist_ok=True)
    if args.only in (None, "codec"):
        codec(report, args.data, work, args.rounds)
    if args.only in (None, "whole"):
        whole(report, args.data, work, args.images, args.rounds, args.quiet)
    if args.only in (None, "rss"):
        memory(report, args.data, args.work)
