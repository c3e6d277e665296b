"""How fast and how big is converting? Against the `jpegtran` subprocess that everybody can run.

    python -m benchmarks.speed.convert [--images 2000] [--rounds 3] [--json]

- The C transcoder alone against `jpegtran -scans` with the same script, one core each, image by
  image in turns: at least 1.1 times as fast. Alone means what jpegtran does, reading and writing:
  the C function also reads its output back and compares, whose time is half that of its own
  `compare` of the output with itself (two reads and a comparison), taken off here. What it takes
  with that, with the coding of the source again for `original`, and with all of `transcode` is
  printed beside.
- The whole `convert --workers 1` (reading, transcoding, verifying, measuring quality, writing)
  against those jpegtran processes on the same files: at least 0.6 times as fast.
- `convert --workers 2` against `--workers 1`: at least 1.7 times.
- Peak RSS of the process tree on 40,000 images: under 1 GiB. The first run takes minutes.

The page cache is warm: everything is read once before. What others used of the cores meanwhile is
printed, and of whole conversions the rounds count in which that was little (`--quiet`), if there is
one; what `--workers 2` can reach is said by two jpegtran processes at a time, which share nothing.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.common import (
    IMAGENET,
    Report,
    big_dataset,
    data_folder,
    fresh,
    images_of,
    load,
    parser,
    repeated,
    timed,
    timed_among_others,
    work_folder,
)
from pcrstore._native import _transcoder
from pcrstore.jpeg import restore
from pcrstore.jpeg.parser import identity_segments, parse
from pcrstore.jpeg.scan_script import ScanSpec, Script, builtin
from pcrstore.jpeg.transcoder import DEFAULT_LIMITS, transcode

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT: Final = builtin("sa5")
MOST_RSS: Final = 2**30
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


def native(data: bytes, *, again: bool) -> bytes:
    """Transcode one file in C, verified, and with `again` coded as its source too."""
    jpeg = parse(data)
    coding = restore.coding(data, jpeg) if again else None
    specs = SCRIPT.expand(jpeg.frame, jpeg.model)
    output, _, _ = _transcoder.transcode(
        data,
        identity_segments(data, jpeg),
        b"".join(restore.pack_scan(s.components, (s.ss, s.se, s.ah, s.al)) for s in specs),
        None if coding is None else coding.packed,
        *LIMITS,
    )
    return output


def codec(report: Report, data: Path, work: Path, rounds: int) -> None:
    """Compare the transcoder with jpegtran image by image, in turns."""
    files = images_of(data / IMAGENET)
    scans = {p: scans_file(work, p.read_bytes(), SCRIPT) for p in files}
    outputs = {p: native(p.read_bytes(), again=False) for p in files}
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        spent = dict.fromkeys(
            ("jpegtran", "verified", "with original", "transcode()", "twice"), 0.0
        )
        for i, p in enumerate(files):
            source, output = p.read_bytes(), outputs[p]
            jobs: list[tuple[str, Callable[[], object]]] = [
                ("jpegtran", lambda: jpegtran(p, scans[p])),  # noqa: B023 - called in this turn
                ("verified", lambda: native(source, again=False)),  # noqa: B023
                ("with original", lambda: native(source, again=True)),  # noqa: B023
                ("transcode()", lambda: transcode(source, SCRIPT)),  # noqa: B023
                ("twice", lambda: _transcoder.compare(output, output, *LIMITS)),  # noqa: B023
            ]
            for name, job in jobs[i % 5 :] + jobs[: i % 5]:
                spent[name] += timed(job)[0]
        spent["alone"] = spent["verified"] - spent.pop("twice") / 2
        for name, seconds in spent.items():
            ratios.setdefault(name, []).append(spent["jpegtran"] / seconds)
        rates = {name: round(len(files) / seconds, 1) for name, seconds in spent.items()}
        report.note("images/s", f"{rates} (load {load()})")
    others = {name: round(median(r), 2) for name, r in ratios.items()}
    alone = median(ratios["alone"])
    report.check(
        "C transcoder alone",
        f"{alone:.2f} times jpegtran; all {others}",
        ">= 1.1 times",
        ok=alone >= 1.1,
    )


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
        report.note("images/s (share of all cores that others used)", rates)

    def ratio(a: str, b: str) -> tuple[float, str]:
        alone = [r for r in found if max(r[a][1], r[b][1]) <= quiet]
        of = alone or found
        said = f"{len(alone)} quiet rounds of {len(found)}" if alone else "no quiet round"
        return median(r[b][0] / r[a][0] for r in of), said

    one, said = ratio("--workers 1", "jpegtran")
    report.check(
        f"--workers 1, {n} images", f"{one:.2f} times jpegtran ({said})", ">= 0.6", ok=one >= 0.6
    )
    two, said = ratio("--workers 2", "--workers 1")
    ceiling, _ = ratio("two jpegtran", "jpegtran")
    report.check(
        f"--workers 2, {n} images",
        f"{two:.2f} times one ({said}); two jpegtran at a time {ceiling:.2f} times one",
        ">= 1.7",
        ok=two >= 1.7,
    )


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--images", type=int, default=2000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--quiet", type=float, default=0.1, help="share of cores others may use")
    p.add_argument("--only", choices=["codec", "whole", "rss"], help="one of the three")
    args = p.parse_args()
    data, top = data_folder(args.data), work_folder(args.work)
    work = top / "convert"
    work.mkdir(exist_ok=True)
    report = Report(benchmark="convert", as_json=args.as_json)
    if args.only in (None, "codec"):
        codec(report, data, work, args.rounds)
    if args.only in (None, "whole"):
        whole(report, data, work, args.images, args.rounds, args.quiet)
    if args.only in (None, "rss"):
        memory(report, data, top)
    return report.finish()


def memory(report: Report, data: Path, top: Path) -> None:
    """Check the peak RSS of the conversion of 40,000 images."""
    _, figures = big_dataset(data, top)
    peak = figures["peak_rss"]
    report.check(
        f"peak RSS, {figures['images']} images, {figures['processes']} processes",
        f"{peak / 2**20:.0f} MiB, {figures['images'] / figures['seconds']:.0f} images/s",
        "< 1024 MiB",
        ok=peak < MOST_RSS,
    )


if __name__ == "__main__":
    sys.exit(main())
