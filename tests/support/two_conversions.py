"""Versions that no conversion writes yet: one with the images of two, and one with fewer images.

    store = DictStore(objects_of_a)
    append(store, objects_of_b)     version 2: the parts of both, b's labels and splits renamed
    remove(store, {3, 4})           version 3: without these records

Each version is written as FORMAT.md says: nothing that an earlier one names is changed.
"""

from dataclasses import replace

import numpy as np
from msgspec.structs import replace as changed
from rewritten import Draft, manifest_bytes

from pcrstore.dataset.versions import list_versions, read_manifest
from pcrstore.format.manifest import Totals
from pcrstore.format.names import manifest_name

__all__ = ["append", "remove", "smaller", "stretches", "totals_of"]


def append(store, objects):
    """Add a version that has the images of another dataset, too."""
    other = Draft.of(objects)
    version = list_versions(store)[0]
    m, theirs = read_manifest(store, version), other.manifest
    classes, splits = (
        _merged(a, b) for a, b in ((m.classes, theirs.classes), (m.splits, theirs.splits))
    )
    parts = []
    for part in other.parts:
        columns = dict(part.rows.columns)
        columns["label"] = _renamed(columns["label"], theirs.classes, classes, -1)
        columns["split"] = _renamed(columns["split"], theirs.splits, splits, 255)
        part.rows = replace(part.rows, columns=columns)
        parts.append(part.encode(m.n_groups))
    known = {c.name for c in m.checked}
    combined = changed(
        m,
        version=version + 1,
        writer=f"append to {version}",
        n_images=m.n_images + theirs.n_images,
        n_records=m.n_records + theirs.n_records,
        totals=_sum(m.totals, theirs.totals),
        classes=classes,
        splits=splits,
        parts=(*m.parts, *(entry for entry, _ in parts)),
        checked=(*m.checked, *(c for c in theirs.checked if c.name not in known)),
        conversions=(*m.conversions, *theirs.conversions),
        quality=tuple(_pooled(a, b) for a, b in zip(m.quality, theirs.quality, strict=True)),
    )
    store.objects |= other.objects | {entry.name: data for entry, data in parts}
    store.objects[manifest_name(version + 1)] = manifest_bytes(combined)


def _merged(ours, theirs):
    return (*ours, *(name for name in theirs if name not in ours))


def _renamed(values, old, new, none):
    """Numbers of names, by their places in another list; `none` stays."""
    places = {i: new.index(name) for i, name in enumerate(old)} | {none: none}
    return np.array([places[v] for v in values.tolist()], values.dtype)


def _sum(a, b):
    return Totals(
        sources=a.sources + b.sources,
        groups=tuple(x + y for x, y in zip(a.groups, b.groups, strict=True)),
        headers=a.headers + b.headers,
        restore=a.restore + b.restore,
    )


def _pooled(a, b):
    """A measurement whose mean is that of both samples; its bounds hold those of both."""
    n = a.n_images + b.n_images
    mean = (np.array(a.mean) * a.n_images + np.array(b.mean) * b.n_images) / n
    return changed(
        a,
        n_images=n,
        mean=tuple(mean.tolist()),
        low=tuple(map(min, a.low, b.low)),
        high=tuple(map(max, a.high, b.high)),
    )


def remove(store, records):
    """Add a version without some records, which are counted in the newest.

    Parts are kept that name no run of which bytes become unused.
    """
    draft = Draft.of(store.objects)
    m = draft.manifest
    edges = np.cumsum((0, *(len(part.rows.records) for part in draft.parts))).tolist()
    lost = {}
    for part, first in zip(draft.parts, edges, strict=False):
        for r in range(len(part.rows.records)):
            if first + r in records:
                for name, n in stretches(m, part, r).items():
                    lost[name] = lost.get(name, 0) + n
    entries, rows = [], []
    for entry, part, first in zip(m.parts, draft.parts, edges, strict=False):
        kept = [r for r in range(len(part.rows.records)) if first + r not in records]
        if not kept:
            continue
        if not any(run.name in lost for run in part.runs):
            entries.append(entry)
            rows.append(part.rows)
            continue
        less = smaller(part, kept, lost, version=m.version + 1)
        written, data = less.encode(m.n_groups)
        store.objects[written.name] = data
        entries.append(written)
        rows.append(less.rows)
    smaller_version = changed(
        m,
        version=m.version + 1,
        writer=f"remove from {m.version}",
        n_images=sum(entry.n_images for entry in entries),
        n_records=sum(entry.n_records for entry in entries),
        totals=totals_of(m.layout, rows),
        parts=tuple(entries),
    )
    store.objects[manifest_name(m.version + 1)] = manifest_bytes(smaller_version)


def smaller(part, kept, lost, *, version):
    """A part with some of its records, and the runs that these lie in."""
    edges = np.cumsum((0, *part.rows.records["n_images"])).tolist()
    at = np.concatenate([np.arange(edges[r], edges[r + 1]) for r in kept])
    rows = replace(
        part.rows,
        records=part.rows.records[kept],
        headers=[part.rows.headers[r] for r in kept],
        restore=part.rows.restore[at],
        columns={
            name: [v[i] for i in at] if isinstance(v, list) else v[at]
            for name, v in part.rows.columns.items()
        },
    )
    used = np.unique(rows.records["object"])
    rows.records["object"] = np.searchsorted(used, rows.records["object"])
    runs = [part.runs[i] for i in used]
    return replace(
        part,
        name=part.name.replace(".pcri", f"-{version}.pcri"),
        uid=f"{version:032x}",
        runs=tuple(changed(run, unused=run.unused + lost.get(run.name, 0)) for run in runs),
        rows=rows,
    )


def stretches(m, part, record):
    """Bytes that a record takes of each run, by its name."""
    row = part.rows.records[record]
    lengths = row["length"].tolist()
    if m.layout == "record":
        lengths = [len(part.rows.headers[record]) + sum(lengths)]
    names = (part.runs[i].name for i in row["object"])
    return dict(zip(names, lengths, strict=True))


def totals_of(layout, rows):
    """The totals of all rows of a version."""
    lengths = np.concatenate([r.records["length"] for r in rows]).sum(axis=0, dtype=np.int64)
    *groups, restore = lengths.tolist()
    headers = sum(len(header) for r in rows for header in r.headers)
    return Totals(
        sources=int(sum(r.columns["source_bytes"].sum() for r in rows)),
        groups=tuple(groups),
        headers=headers if layout == "record" else 0,
        restore=restore,
    )
