"""What a conversion has finished is read back as it was noted, or done again."""

import os
from dataclasses import replace

import numpy as np
import pytest
from built_records import GOOD, IDS, UNIT, array_writer, build
from flows import DictStore, photo

from pcrstore.conversion.journal import FinishedUnit, Journal, Outcomes
from pcrstore.conversion.record_writer import RecordWriter
from pcrstore.conversion.report import Problem
from pcrstore.conversion.sources.base import Listing, SourceFile
from pcrstore.errors import SourceChangedError
from pcrstore.storage.local import LocalStore

LISTING = Listing(
    files=tuple(
        SourceFile(key=k, label=None, split=None, n_bytes=len(d), stamp="1") for k, d in GOOD
    ),
    n_hidden=0,
)


def journal(store, **kwargs):
    names = {"options": "o", "content": "c", "layout": "record", "n_groups": 5}
    return Journal(store, **{**names, **kwargs})


def unit(layout="record", number=3):
    r = build(GOOD)
    writer = RecordWriter(IDS) if layout == "record" else array_writer(chunk_bytes=100)
    placed = writer.place(UNIT, [r])
    return FinishedUnit(
        number=number,
        object=placed.object,
        rows=placed.rows,
        outcomes=Outcomes(
            problems=(Problem(key="%FF\n.jpg", reason="r\u00e9ason", outcome="skipped"),),
            quality=r.quality,
            restore_bytes=r.restore_bytes,
            restore_images=r.restore_images,
        ),
    )


def same(a, b):
    plain = replace(a, rows=None) == replace(b, rows=None)
    if a.rows is None or b.rows is None:
        return plain and a.rows is b.rows
    x, y = a.rows, b.rows
    return (
        plain
        and (x.records == y.records).all()
        and x.headers == y.headers
        and (x.restore == y.restore).all()
        and all(np.array_equal(x.columns[c], y.columns[c]) for c in x.columns)
    )


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_unit_comes_back_as_it_was(layout):
    store = DictStore()
    j = journal(store, layout=layout)
    j.write(unit(layout))
    j.write(replace(unit(layout), rows=None, object=None), "skip")
    assert same(j.read(j.name(3)), unit(layout))
    assert same(j.read(j.name(3, "skip")), replace(unit(layout), rows=None, object=None))


def test_a_damaged_note_is_none():
    store = DictStore()
    j = journal(store)
    j.write(unit())
    data = store.get(j.name(3), max_bytes=2**31)
    for at in range(0, len(data), 7):
        store.put(j.name(3), data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        assert j.read(j.name(3)) is None
    for n in (0, 4, 7, 8, 100, len(data) - 1):
        store.put(j.name(3), data[:n])
        assert j.read(j.name(3)) is None
    store.put(j.name(3), data + b"\0")
    assert j.read(j.name(3)) is None
    assert j.read("staging/o/c/unit-9") is None


def test_the_names_of_what_is_finished_are_found_again():
    store = DictStore()
    assert journal(store).begin(LISTING, restart=False) == frozenset()
    journal(store).write(unit())
    found = journal(store).begin(LISTING, restart=False)
    assert found == {"staging/o/c/listing", "staging/o/c/unit-000003"}
    assert journal(store, options="p").begin(LISTING, restart=False) == frozenset()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (LISTING.files[1:], "0.jpg is gone"),
        ((*LISTING.files, replace(LISTING.files[0], key="z")), "z is new"),
        ((replace(LISTING.files[0], stamp="2"), *LISTING.files[1:]), "0.jpg changed"),
        ((replace(LISTING.files[0], n_bytes=1), *LISTING.files[1:]), "0.jpg changed"),
    ],
)
def test_another_source_is_refused_until_restart(files, says):
    store = DictStore({"objects/kept": photo(1)})
    journal(store).begin(LISTING, restart=False)
    journal(store).write(unit())
    changed = Listing(files=tuple(files), n_hidden=0)
    other = journal(store, content="d")
    with pytest.raises(SourceChangedError, match=says):
        other.begin(changed, restart=False)
    assert other.begin(changed, restart=True) == frozenset()
    assert set(store.objects) == {"objects/kept", "staging/o/d/listing"}


def test_removing_leaves_the_dataset():
    """Also what somebody else keeps under `staging/`, whatever it is called."""
    kept = ["objects/kept", "stagingless", "staging/thesis.tex", "staging/cat/1.jpg"]
    kept += [f"staging/{'a' * 32}/{'b' * 32}/notes", f"staging/{'a' * 32}/listing"]
    store = DictStore(dict.fromkeys(kept, b"x"))
    options, others, content = "0" * 32, "1" * 32, "2" * 32
    mine = journal(store, options=options, content=content)
    mine.begin(LISTING, restart=False)
    mine.write(unit())
    mine.write(unit(), "encode95")
    journal(store, options=others, content=content).begin(LISTING, restart=False)
    mine.remove()
    assert set(store.objects) == set(kept)


def test_a_huge_note_is_no_note_and_is_not_read(tmp_path):
    store = LocalStore(str(tmp_path))
    j = journal(store)
    j.begin(LISTING, restart=False)
    j.write(unit())
    for entry in store.list(""):
        os.truncate(tmp_path / entry.name, 1 << 40)  # a hole
    assert j.read(j.name(3)) is None
    with pytest.raises(SourceChangedError, match="the source may have changed"):
        journal(store, content="d").begin(LISTING, restart=False)
