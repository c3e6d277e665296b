"""Ways to bend a small dataset: each returns a function of the layout that makes a `Bent`."""

import json
import re

import numpy as np
from bent_datasets import Bent, keep_records, split_part
from msgspec.structs import replace as changed

from pcrstore.core import crc32c
from pcrstore.format.columns import Column


def image(i, **columns):
    """Other values of an image's columns."""

    def bend(layout):
        return Bent.of(layout, lambda images: images[i].columns.update(columns))

    return bend


def cells(edit):
    """Other cells; `edit` takes the images."""
    return lambda layout: Bent.of(layout, edit)


def of(method, edit, *more):
    """A change of a whole dataset by one of its methods."""

    def bend(layout):
        bent = Bent.of(layout)
        getattr(bent, method)(edit, *more)
        return bent

    return bend


def manifest(edit):
    return of("manifest", edit)


def directory(edit, pages=None):
    return of("directory", edit, pages)


def draft(edit):
    return of("draft", edit)


def side(name, edit):
    return of("side", name, edit)


def array(name, edit):
    return of("array", name, edit)


def setting(*path, to):
    """An edit of JSON: the value at a path; a function of the old one where `to` is one."""

    def edit(table):
        *steps, last = path
        for step in steps:
            table = table[step]
        table[last] = to(table[last]) if callable(to) else to

    return edit


def block(name, **fields):
    """An edit of a directory: fields of a block."""

    def edit(d):
        next(b for b in d["blocks"] if b["name"] == name).update(fields)

    return edit


def dropped(*kept, unused=True, more=0):
    """A version of some of the records."""

    def edit(d):
        keep_records(d, list(kept), unused=unused)
        d.parts[0].runs = tuple(changed(r, unused=r.unused + more) for r in d.parts[0].runs)

    return draft(edit)


def inserted(record, n=7):
    """Bytes in the object before a record, or behind the last."""

    def bend(layout):
        bent = Bent.of(layout)
        data = bent.objects[bent.object]

        def edit(d):
            part = d.parts[0]
            starts = part.rows.records["start"][:, 0]
            at = int(starts[record]) if record < len(starts) else len(data)
            starts[record:] += np.uint64(n)
            part.runs = tuple(changed(r, n_bytes=r.n_bytes + n) for r in part.runs)
            d.objects[bent.object] = data[:at] + b"x" * n + data[at:]

        bent.draft(edit)
        return bent

    return bend


def overlapping(d):
    """The second record begins where the first does."""
    records = d.parts[0].rows.records
    records["start"][1] = records["start"][0]


def two_parts(edit=None):
    """Two parts, whose draft is changed then."""

    def both(d):
        split_part(d)
        if edit is not None:
            edit(d)

    return draft(both)


def other_run(**fields):
    """The second part says otherwise of the first run."""

    def edit(d):
        first, *rest = d.parts[1].runs
        d.parts[1].runs = (changed(first, **fields), *rest)

    return edit


def grown_run(d):
    first, *rest = d.parts[1].runs
    d.parts[1].runs = (changed(first, n_bytes=first.n_bytes + 1), *rest)


def header_edited(record, edit):
    """The index's copy of a record's header, changed, its checksum put right."""

    def change(d):
        part = d.parts[0]
        data = bytearray(part.rows.headers[record])
        seed = int.from_bytes(data[4:8], "little") ^ crc32c(bytes(data[8:]))
        edit(data)
        data[4:8] = (crc32c(bytes(data[8:])) ^ seed).to_bytes(4, "little")
        part.rows.headers[record] = bytes(data)

    return draft(change)


def put(at, value):
    return lambda data: data.__setitem__(at, value(data[at]) if callable(value) else value)


def column(name, dtype, values, shape=(), *, becomes=None, codec=None):
    """A further column; stored as one type, it `becomes` another of the same bytes."""

    def bend(layout):
        bent = Bent.of(layout)
        bent.draft(lambda d: d.add(Column(name=name, dtype=dtype, shape=shape), values))
        if codec is not None:
            bent.directory(block(name, codec=codec))
        if becomes is not None:
            bent.directory(block(name, dtype=becomes))
            bent.manifest(setting("columns", 9, "dtype", to=becomes))
        return bent

    return bend


def lacking(name, dtype):
    """A column that the manifest lists and no part has."""
    return manifest(lambda m: m["columns"].append({"name": name, "dtype": dtype, "shape": []}))


def flipped(at):
    """Bytes with one byte changed."""
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def replaced(old, new):
    """The text of JSON with other words."""

    def edit(table):
        return json.dumps(table).replace(old, new).encode()

    return edit


def lost(pattern):
    """Objects that are gone."""

    def bend(layout):
        bent = Bent.of(layout)
        for name in [n for n in bent.objects if re.search(pattern, n)]:
            del bent.objects[name]
        return bent

    return bend


def stored(pattern, edit):
    """Objects with other bytes, whose checksums nobody put right."""

    def bend(layout):
        bent = Bent.of(layout)
        for name in [n for n in bent.objects if re.search(pattern, n)]:
            bent.objects[name] = edit(bent.objects[name])
        return bent

    return bend


def tail(layout):
    """A last byte of group 1's last chunk, which no record reaches, that is not zero."""
    bent = Bent.of(layout)
    last = max(n for n in bent.objects if n.startswith(f"{bent.group}/group_1/c/"))
    assert bent.objects[last][-1] == 0
    bent.objects[last] = bent.objects[last][:-1] + b"x"
    return bent


def root(name, data):
    """Other bytes of a group above the arrays, which the manifest checks; None: there are none."""
    return of("checked", name, data)


def unchecked(name):
    """An object of the group that the manifest does not check."""

    def bend(layout):
        bent = Bent.of(layout)
        place = f"{bent.group}/{name}" if name != "zarr.json" else name
        bent.manifest(lambda m: m.update(checked=[c for c in m["checked"] if c["name"] != place]))
        return bent

    return bend


def swapped_arrays(d):
    """The arrays of groups 1 and 2 exchange their names."""
    a, b, *rest = d.parts[0].runs
    d.parts[0].runs = (changed(a, name=b.name), changed(b, name=a.name), *rest)


def permuted_runs(d):
    """The runs in another order, and the records' numbers with them: nothing is wrong."""
    part = d.parts[0]
    part.runs = part.runs[::-1]
    part.rows.records["object"] = len(part.runs) - 1 - part.rows.records["object"]


def other_uid(d):
    first, *rest = d.parts[0].runs
    d.parts[0].runs = (*(first, *rest[:-1]), changed(rest[-1], uid="e" * 32))


def repeated_run(d):
    """A part that lists a run twice, of which the second record says the second."""
    part = d.parts[0]
    n = len(part.runs)
    part.runs = (*part.runs, *part.runs)
    part.rows.records["object"][1] += n


def blob(i, edit):
    """Another restore blob."""

    def change(images):
        images[i].restore = edit(images[i].restore)

    return cells(change)


def cell(i, g, edit):
    """Another cell."""

    def change(images):
        images[i].groups[g] = edit(images[i].groups[g])

    return cells(change)


def moved_bytes(images):
    """Cell 3 ends ten bytes later: inside a scan of cell 4."""
    groups = images[0].groups
    groups[2], groups[3] = groups[2] + groups[3][:10], groups[3][10:]


def sequential(images):
    images[0].groups[0] = images[0].groups[0].replace(b"\xff\xc2", b"\xff\xc1", 1)


def nested(m):
    return (
        json.dumps({**m, "later": 0})
        .encode()
        .replace(b'"later": 0', b'"later": ' + b"[" * 70 + b"]" * 70)
    )


def other_runs(**fields):
    """A part that says otherwise of all its runs."""

    def edit(d):
        d.parts[0].runs = tuple(changed(run, **fields) for run in d.parts[0].runs)

    return edit


def measured(metric, percentile):
    """A measurement of the manifest's JSON."""
    values = {name: [0.5] * 5 for name in ("mean", "low", "high")}
    return {"metric": metric, "n_images": 1, **values, "percentiles": {percentile: [0.5] * 5}}
