"""Is anything lost? Every real image, both layouts, against libjpeg's own tools.

    python -m tests.soak.test_lossless [--djpeg-every 1] [--json]

- `jpegtran -copy none -optimize` of the source and of the full-fidelity file: identical bytes, so
  the same coefficients, quantisation tables and geometry.
- `export` at fidelity `original`: the source files, by SHA-256; for the odd JPEGs too, under each
  policy that keeps files, and what their restore regions cost.
- Every prefix of every image: simplejpeg (strict) and `djpeg` (exit code 0, which a warning would
  make 2) decode it to the source's size. `--djpeg-every N` takes every Nth image of clothing-small.
- Pixels: both decoders and `Dataset.read` agree, at scale 1, 2, 4 and 8, on a sample.
- Sizes: all objects but the restore regions against the sources.

Both layouts hold the same files, so that tools run once on each distinct file.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg

import pcrstore
from benchmarks.common import (
    CLOTHING,
    IMAGENET,
    LAYOUTS,
    ODD,
    Report,
    convert_set,
    data_folder,
    fresh,
    images_of,
    parser,
    work_folder,
)
from pcrstore.dataset.dataset import Dataset
from pcrstore.exports.folder import export, safe_name
from pcrstore.format.index import ENCODED
from pcrstore.format.record import EOI
from pcrstore.image.decoder import decode
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.parser import parse_frame

LARGEST: Final = {IMAGENET: 0.965, CLOTHING: 0.98}
PIXEL_SAMPLE: Final = 40


def digest(data: bytes) -> bytes:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).digest()


def jpegtran(data: bytes) -> bytes:
    """Return the digest of what jpegtran makes of a file: its coefficients in a normal form."""
    done = subprocess.run(
        ["jpegtran", "-copy", "none", "-optimize"], input=data, capture_output=True, check=False
    )
    return digest(done.stdout) if done.returncode == 0 else done.stderr


def djpeg(data: bytes) -> tuple[int, ...]:
    """Return height and width of what djpeg decodes, or its exit code alone."""
    done = subprocess.run(["djpeg", "-pnm"], input=data, capture_output=True, check=False)
    if done.returncode:
        return (done.returncode,)
    _, size, _ = done.stdout[:64].split(b"\n", 2)
    width, height = size.split()
    return int(height), int(width)


def strict(data: bytes) -> tuple[int, ...]:
    """Return height and width of what simplejpeg decodes strictly, or () when it refuses."""
    try:
        return simplejpeg.decode_jpeg(data, strict=True).shape[:2]
    except ValueError:
        return ()


@dataclass(slots=True)
class Once:
    """A tool whose results are kept by the digest of its input; runs in two threads."""

    tool: Callable[[bytes], object]
    seen: dict[bytes, object] = field(default_factory=dict)

    def __call__(self, files: Sequence[bytes]) -> list[object]:
        """Return the tool's result for each file."""
        keys = [digest(f) for f in files]
        new = {k: f for k, f in zip(keys, files, strict=True) if k not in self.seen}
        with ThreadPoolExecutor(2) as pool:
            self.seen.update(zip(new, pool.map(self.tool, new.values()), strict=True))
        return [self.seen[k] for k in keys]


JPEGTRAN, DJPEG, STRICT = Once(jpegtran), Once(djpeg), Once(strict)


def stored_bytes(target: Path) -> tuple[int, int]:
    """Return the bytes of all objects of a dataset: outside and inside restore regions."""
    ds = pcrstore.open(str(target))
    total = sum(p.stat().st_size for p in images_of(target))
    if ds.manifest.layout == "record":
        return total - ds.manifest.totals.restore, ds.manifest.totals.restore
    restore = sum(p.stat().st_size for p in images_of(target) if "/restore/c/" in str(p))
    return total - restore, restore


def exported(report: Report, title: str, ds: Dataset, source: Path, target: Path) -> None:
    """Check that every exported original is its source file."""
    written = export(ds, str(fresh(target)), fidelity="original")
    keys = ds.keys
    same = sum(
        digest((target / safe_name(k)).read_bytes()) == digest((source / k).read_bytes())
        for k in keys
    )
    n = len(keys)
    ok = same == n == written.n_files and n > 0
    report.check(f"{title}: originals by SHA-256", f"{same} of {n}", "all", ok=ok)
    fresh(target)


def full_files(report: Report, title: str, ds: Dataset, source: Path) -> None:
    """Check the coefficients of every full-fidelity file."""
    same, keys = 0, ds.keys
    for first in range(0, len(ds), 64):
        batch = range(first, min(first + 64, len(ds)))
        theirs = JPEGTRAN([(source / keys[i]).read_bytes() for i in batch])
        ours = JPEGTRAN(ds.fetch(batch))
        same += sum(isinstance(a, bytes) and a == b for a, b in zip(ours, theirs, strict=True))
    report.check(
        f"{title}: jpegtran of full = of source", f"{same} of {len(ds)}", "all", ok=same == len(ds)
    )


def prefixes(report: Report, title: str, ds: Dataset, every: int) -> None:
    """Check that strict decoders take every prefix, to the source's size."""
    sizes = [(int(h), int(w)) for h, w in zip(ds.column("height"), ds.column("width"), strict=True)]
    for k in range(1, ds.n_groups + 1):
        good, fine, tried = 0, 0, 0
        for first in range(0, len(ds), 64):
            batch = range(first, min(first + 64, len(ds)))
            files = ds.fetch(batch, k)
            good += sum(s == sizes[i] for i, s in zip(batch, STRICT(files), strict=True))
            picked = [(i, f) for i, f in zip(batch, files, strict=True) if i % every == 0]
            shapes = DJPEG([f for _, f in picked])
            tried += len(picked)
            fine += sum(s == sizes[i] for (i, _), s in zip(picked, shapes, strict=True))
        ok = good == len(ds) and fine == tried
        figure = f"simplejpeg {good} of {len(ds)}, djpeg {fine} of {tried}"
        report.check(f"{title}: prefix {k} decodes", figure, "all", ok=ok)


def pixels(report: Report, title: str, ds: Dataset) -> None:
    """Check that both engines and `read` give the same pixels."""
    step = max(1, len(ds) // PIXEL_SAMPLE)
    sample = range(0, len(ds), step)
    same, tried = 0, 0
    for k in range(1, ds.n_groups + 1):
        files = ds.fetch(sample, k)
        if k < ds.n_groups:
            files = [f[: -len(EOI)] + end_of_band_tail(parse_frame(f)) + EOI for f in files]
        for scale in (1, 2, 4, 8):
            for f, ours in zip(files, ds.read(sample, k, scale=scale), strict=True):
                a = decode(f, scale=scale, engine="simplejpeg")
                b = decode(f, scale=scale, engine="pillow")
                same += np.array_equal(a, b) and np.array_equal(a, ours)
                tried += 1
    figure = f"{same} of {tried} ({len(sample)} images, every k, 4 scales)"
    report.check(f"{title}: pixels of both engines", figure, "all", ok=same == tried)


def odd_files(report: Report, data: Path, work: Path, layout: str) -> None:
    """Check the originals of the odd JPEGs under each policy that keeps files."""
    source = odd_tree(data, work)
    for policy in ("skip", "opaque", "encode"):
        title = f"odd {layout} {policy}"
        target = fresh(work / "odd-out")
        options = pcrstore.Options(layout=layout, policy=policy)
        made = pcrstore.convert(str(source), str(target), options, workers=1)
        ds = pcrstore.open(str(target))
        exported(report, title, ds, source, work / "odd-back")
        n_encoded = int((np.asarray(ds.column("format")) == ENCODED).sum())
        report.note(
            f"{title}: cost",
            f"{made.n_images} images ({n_encoded} encoded) of {made.source_bytes} bytes, restore "
            f"regions {made.restore_bytes} bytes, by kind (images, bytes) {made.restore_kinds}",
        )


def odd_tree(data: Path, work: Path) -> Path:
    """Return a class-per-folder tree of the odd files."""
    tree = fresh(work / "odd-tree")
    (tree / "odd").mkdir(parents=True)
    for p in images_of(data / ODD):
        if p.name != "MANIFEST.csv":
            (tree / "odd" / p.name).write_bytes(p.read_bytes())
    return tree


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--djpeg-every", type=int, default=1, help="of clothing-small")
    p.add_argument("--sets", nargs="*", default=[IMAGENET, CLOTHING])
    args = p.parse_args()
    data, work = data_folder(args.data), work_folder(args.work) / "lossless"
    work.mkdir(exist_ok=True)
    report = Report(benchmark="lossless", as_json=args.as_json)
    for layout in LAYOUTS:
        odd_files(report, data, work, layout)
        for name in args.sets:
            title = f"{name} {layout}"
            target = convert_set(data, work, name, layout)
            ds = pcrstore.open(str(target))
            size, restore = stored_bytes(target)
            ratio = size / ds.manifest.totals.sources
            limit = LARGEST[name]
            cost = restore / ds.manifest.totals.sources
            report.check(
                f"{title}: objects / sources",
                f"{ratio:.4f}, restore apart {cost:.4f}",
                f"<= {limit}",
                ok=ratio <= limit and len(ds) == len(images_of(data / name)),
            )
            full_files(report, title, ds, data / name)
            exported(report, title, ds, data / name, work / "back")
            prefixes(report, title, ds, 1 if name == IMAGENET else args.djpeg_every)
            pixels(report, title, ds)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
