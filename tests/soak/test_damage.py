"""Is every damaged byte found, by `verify` and by whoever reads it?

    python -m tests.soak.test_damage [--damages 1000] [--json]

A small dataset of real photos in each layout is damaged a thousand times, once at a time: one byte
changed, one object cut short or lengthened by a byte, or two objects exchanged. Objects are chosen
by kind first, so that manifest, index, records and the rest are hit alike. `verify` must find each;
a plain read of everything (columns, an epoch, the originals) must raise a pcrstore error, or, where
the damage lies in bytes that reading never touches (the report, the hint, Zarr's own metadata, what
follows an object's end), return what was stored.
"""

import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

import pcrstore
from benchmarks.common import (
    CLOTHING,
    LAYOUTS,
    Report,
    data_folder,
    fresh,
    images_of,
    parser,
    work_folder,
)
from pcrstore.maintenance.verifier import verify

N_IMAGES: Final = 10
ALWAYS_READ: Final = frozenset({"manifests", "index", "objects", "group", "restore"})
"""Kinds of object whose every byte a full read depends on (padding of chunks aside)."""


def kind_of(name: str) -> str:
    """Return what an object is for."""
    parts = name.split("/")
    if parts[0] != "zarr":
        return parts[0]
    if parts[-1] == "zarr.json":
        return "zarr.json"
    if parts[2].startswith("group_"):
        return "group"
    return parts[2] if parts[2] == "restore" else "side"


def everything(url: str) -> list[object]:
    """Read a dataset in every way there is and return all of it."""
    ds = pcrstore.open(url)
    out: list[object] = [np.asarray(ds.column(c.name)).tolist() for c in ds.manifest.columns]
    out.append([(s.key, s.label, s.jpeg) for s in ds.iter()])
    out.append([(s.key, s.label, s.jpeg) for s in ds.iter(1)])
    out.append(ds.fetch(range(len(ds)), "original"))
    return out


@contextmanager
def damaged(target: Path, names: list[str], pick: random.Random) -> Iterator[tuple[str, str, int]]:
    """Damage one object, give what was done, and mend it."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(kind_of(name), []).append(name)
    name = pick.choice(kinds[pick.choice(sorted(kinds))])
    path = target / name
    before = path.read_bytes()
    how = pick.choices(["flip", "cut", "grow", "swap"], [6, 2, 1, 2])[0]
    at = pick.randrange(len(before))
    other, other_before = path, before
    if how == "swap":
        other = target / pick.choice([n for n in names if (target / n).read_bytes() != before])
        other_before = other.read_bytes()
        path.write_bytes(other_before)
        other.write_bytes(before)
    elif how == "flip":
        byte = bytes([before[at] ^ pick.randrange(1, 256)])
        path.write_bytes(before[:at] + byte + before[at + 1 :])
    else:
        path.write_bytes(before[:at] if how == "cut" else before + b"\0")
    try:
        yield name, how, at
    finally:
        path.write_bytes(before)
        other.write_bytes(other_before)


def found_by_verify(url: str) -> bool:
    """Say whether `verify` finds fault with a dataset."""
    try:
        return bool(verify(url).faults)
    except pcrstore.PcrstoreError:
        return True  # nothing there is recognisable as a dataset


def damage(report: Report, data: Path, work: Path, layout: str, n: int, seed: int) -> None:
    """Damage one layout's dataset `n` times."""
    source = fresh(work / "source")
    small = sorted(images_of(data / CLOTHING), key=lambda p: (p.stat().st_size, p.name))
    for p in small[:N_IMAGES]:
        to = source / p.parent.name / p.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(p, to)
    target = fresh(work / "out")
    options = pcrstore.Options(
        layout=layout, record_bytes=None, record_images=3, object_bytes=60_000, chunk_bytes=16_384
    )
    pcrstore.convert(str(source), str(target), options, workers=1)
    url = str(target)
    names = sorted(p.relative_to(target).as_posix() for p in images_of(target))
    whole = everything(url)
    if verify(url).faults:
        raise SystemExit("the dataset is not whole to begin with")
    pick = random.Random(seed)  # noqa: S311 - where to damage
    tried, missed, unraised, wrong = Counter[str](), [], [], []
    raised = 0
    for _ in range(n):
        with damaged(target, names, pick) as (name, how, at):
            case = f"{how} {name} at {at}"
            tried[f"{how} {kind_of(name)}"] += 1
            if not found_by_verify(url):
                missed.append(case)
            try:
                if everything(url) != whole:
                    wrong.append(case)
                elif how != "grow" and kind_of(name) in ALWAYS_READ:
                    unraised.append(case)
            except pcrstore.PcrstoreError:
                raised += 1
    if everything(url) != whole:
        raise SystemExit("the dataset was not mended")
    report.note(f"{layout}: {len(names)} objects, damages", dict(sorted(tried.items())))
    report.check(
        f"{layout}: verify finds", f"{n - len(missed)} of {n} {missed[:5]}", "all", ok=not missed
    )
    report.check(
        f"{layout}: reads of damaged data",
        f"{raised} raised a pcrstore error, {n - raised - len(wrong)} touched nothing damaged, "
        f"{len(wrong)} gave something else {wrong[:5]}",
        "none gives something else",
        ok=not wrong,
    )
    report.check(
        f"{layout}: damage to manifest, index or records that no read met",
        f"{len(unraised)} {unraised[:5]}",
        "0",
        ok=not unraised,
    )


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--damages", type=int, default=1000)
    args = p.parse_args()
    data, work = data_folder(args.data), work_folder(args.work) / "damage"
    work.mkdir(exist_ok=True)
    report = Report(benchmark="damage", as_json=args.as_json)
    for layout in LAYOUTS:
        damage(report, data, work, layout, args.damages, args.seed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
