"""Single bytes of stored datasets changed, one at a time, and who notices."""

import numpy as np
from flows import DictStore, dataset

from pcrstore.errors import PcrstoreError
from pcrstore.maintenance.verifier import verify


def places(objects, step=1):
    """Name and offset of every `step`th byte of a dataset, all objects back to back."""
    at = 0
    for name, data in sorted(objects.items()):
        for i in range(-at % step, len(data), step):
            yield name, i
        at += len(data)


def flipped(objects, name, at):
    """A dataset with one byte changed; which bit depends on the place."""
    data = objects[name]
    byte = bytes([data[at] ^ (1 << at % 8)])
    return {**objects, name: data[:at] + byte + data[at + 1 :]}


def reading(objects):
    """Everything that a reader gives back of a dataset, in several ways."""
    ds = dataset(DictStore(objects))
    whole = range(len(ds))
    columns = (ds.column(c.name) for c in ds.manifest.columns)
    return (
        [v.tolist() if isinstance(v, np.ndarray) else v for v in columns],
        [(s.key, s.label, s.jpeg) for s in ds.iter(2)],
        *(ds.fetch(whole, k) for k in (1, "full", "original")),
        ds.fetch([len(ds) - 1], 3),
    )


def complaints(objects, changes):
    """Change one byte after the other: what verify missed, and what was read wrongly."""
    right = reading(objects)
    missed, misread = [], []
    for name, at in changes:
        spoiled = flipped(objects, name, at)
        if not any(_is_of(f.name, name) for f in verify(DictStore(spoiled)).faults):
            missed.append((name, at))
        try:
            if reading(spoiled) != right:
                misread.append((name, at))
        except PcrstoreError:
            pass
    return missed, misread


def _is_of(fault, name):
    """Say whether a fault is named after an object, or the array or group that it is in."""
    return name == fault or name.startswith(f"{fault}/")
