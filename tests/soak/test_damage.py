"""Every damaged byte is found, by `verify` and by whoever reads it.

A small dataset of every kind of file is damaged a thousand times, once at a time: one byte changed,
one object cut short or lengthened by a byte, or two objects exchanged. Objects are chosen by kind
first, so that manifest, index, records and the rest are hit alike. `verify` must find each; a plain
read of everything must raise a pcrstore error, or, where the damage lies in bytes that reading
never touches (the report, the hint, Zarr's own metadata, what follows an object's end), return what
was stored. And of datasets so small that it can be done, every single byte is changed.
"""

import random
from contextlib import contextmanager

import numpy as np
import pytest
from bent_datasets import Bent
from damages import complaints, places
from small_sources import small_options, sources, write_sources

import pcrstore

pytestmark = pytest.mark.soak

DAMAGES = 1000
FLIPS = 12_000
"""Bytes changed of each layout: all of the record layout's."""
ALWAYS_READ = {"manifests", "index", "objects", "group", "restore"}
"""Kinds of object whose every byte a full read depends on (padding of chunks aside)."""


def kind_of(name):
    """Return what an object is for."""
    parts = name.split("/")
    if parts[0] != "zarr":
        return parts[0]
    if parts[-1] == "zarr.json":
        return "zarr.json"
    if parts[2].startswith("group_"):
        return "group"
    return parts[2] if parts[2] == "restore" else "side"


def everything(url):
    """Read a dataset in every way there is and return all of it."""
    ds = pcrstore.open(url)
    columns = [np.asarray(ds.column(c.name)).tolist() for c in ds.manifest.columns]
    epochs = [[(s.key, s.label, s.jpeg) for s in ds.iter(k)] for k in (1, "full")]
    return columns, epochs, ds.fetch(range(len(ds)), "original")


def has_faults(url):
    try:
        return bool(pcrstore.verify(url).faults)
    except pcrstore.PcrstoreError:
        return True  # nothing there is recognisable as a dataset


@contextmanager
def damaged(target, names, pick):
    """Damage one object, yield its name, how and where, and mend it."""
    kinds = {}
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
        yield name, how, f"{how} {name} at {at}"
    finally:
        path.write_bytes(before)
        other.write_bytes(other_before)


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_damage_is_found_by_verify_and_met_by_reads(tmp_path, scaled, layout):
    target = tmp_path / "ds"
    source = write_sources(tmp_path / "source", sources())
    pcrstore.convert(source, target, small_options(layout, "opaque"), workers=1)
    names = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    whole = everything(target)
    assert not has_faults(target)
    pick = random.Random(0)
    missed, read_wrongly, unnoticed = [], [], []
    for _ in range(scaled(DAMAGES)):
        with damaged(target, names, pick) as (name, how, case):
            if not has_faults(target):
                missed.append(case)
            try:
                if everything(target) != whole:
                    read_wrongly.append(case)
                elif how != "grow" and kind_of(name) in ALWAYS_READ:
                    unnoticed.append(case)
            except pcrstore.PcrstoreError:
                pass
    assert everything(target) == whole
    assert (missed, read_wrongly, unnoticed) == ([], [], [])


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_every_byte_is_checked(layout, scaled):
    """No byte of a conversion is unused."""
    objects = Bent.of(layout).objects
    n_bytes = sum(map(len, objects.values()))
    step = max(1, n_bytes // scaled(FLIPS))
    assert complaints(objects, places(objects, step)) == ([], [])
