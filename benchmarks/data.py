"""Real JPEGs, again under other names, and datasets of them; each is made once, below `--work`.

`--data`, or the environment variable PCRSTORE_TEST_DATA, is a folder with `imagenet-sample/` (250
images in class folders) and `clothing-small/` (3,781 in split and class folders).
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.measuring import peak_rss
from benchmarks.results import ROOT
from pcrstore import Options
from pcrstore.jpeg import EOI
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.parser import parse_frame

VARIABLE: Final = "PCRSTORE_TEST_DATA"
IMAGENET: Final = "imagenet-sample"
CLOTHING: Final = "clothing-small"
BIG: Final = 40_000


def default_work() -> Path:
    """Return where benchmarks write unless told otherwise."""
    return Path(tempfile.gettempdir()) / "pcrstore-bench"


def fresh(path: Path) -> Path:
    """Return a path at which there is nothing now."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def images_of(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


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


def converted(images: Path, target: Path, options: Options | None = None) -> Path:
    """Return the dataset of some images, converted if it is not there with these options."""
    done = target.with_name(target.name + ".done")
    wanted = repr(options)
    if not done.exists() or done.read_text() != wanted:
        print(f"converting {target.name}", file=sys.stderr, flush=True)
        pcrstore.convert(images, fresh(target), options, workers=2)
        done.write_text(wanted)
    return target


def as_decoded(jpeg: bytes) -> bytes:
    """Return the file that a loader decodes for a prefix: a tail switches block smoothing off."""
    return jpeg.removesuffix(EOI) + end_of_band_tail(parse_frame(jpeg)) + EOI


_CONVERT: Final = """
import sys, pcrstore
if __name__ == "__main__":
    report = pcrstore.convert(sys.argv[1], sys.argv[2], workers=2)
    print(report.n_images, report.seconds)
"""


def big_dataset(data: Path, work: Path) -> tuple[Path, dict[str, float]]:
    """Return the dataset of 40,000 images and what its conversion took, converting it if need be.

    The figures are images, seconds and the peak of the summed RSS of the process and its workers,
    whose shared pages count once for each of them.
    """
    target, figures = work / "big", work / "big.json"
    if not figures.exists():
        images = repeated(data, work / "big-tree", BIG)
        script = work / "big.py"  # a file: spawned workers import the main module
        script.write_text(_CONVERT)
        command = [sys.executable, str(script), str(images), str(fresh(target))]
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        out, peak, most = peak_rss(command, environment=here)
        n, seconds = out.split()
        found = {"images": int(n), "seconds": float(seconds), "peak_rss": peak, "processes": most}
        figures.write_text(json.dumps(found))
    return target, json.loads(figures.read_text())
