"""Records are placed in order, and arrays are cut alike however often they are resumed."""

import numpy as np
import pytest
from built_records import GOOD, build
from flows import photo

from pcrstore.conversion.writers import ArrayWriter, RecordWriter


def records(n=6):
    return [build([(f"{i}.jpg", photo(i))], ordinal=i) for i in range(n)]


def streams(rs):
    return [b"".join(r.regions[g] for r in rs) for g in range(6)]


def stored(objects, chunk):
    """Array -> its bytes, put together from chunks, each of which comes once."""
    out = {}
    for name, data in objects:
        array, _, number = name.partition("/c/")
        assert len(data) == chunk[array]
        assert out.setdefault(array, {}).setdefault(int(number), data) == data
    return {a: b"".join(c[i] for i in range(len(c))) for a, c in out.items()}


def chunk_of(sink):
    names = [f"group_{g}" for g in range(1, 6)] + ["restore"]
    return {f"z/{n}": size for n, size in zip(names, sink.chunk_sizes(), strict=True)}


def test_records_of_a_unit_are_back_to_back():
    sink = RecordWriter(n_groups=5)
    rs = records(3)
    for r in rs:
        sink.add(r)
    empty = build([("bad", b"x")], "skip")
    sink.add(empty)
    unit = sink.finish_unit("objects/a", bytes(16))
    ((name, data),) = unit.objects
    assert name == "objects/a"
    assert data == b"".join(r.header + b"".join(r.regions) for r in rs)
    assert unit.object.n_bytes == len(data)
    for row, r in zip(unit.rows.records, rs, strict=True):
        at = int(row["start"][0])
        assert data[at : at + len(r.header)] == r.header
    assert sink.finish_unit("objects/b", bytes(16)).objects == ()


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 100, 10**6])
def test_arrays_hold_every_region_and_zeros(hold, chunk_bytes):
    sink = ArrayWriter(n_groups=5, name="z", chunk_bytes=chunk_bytes, hold=hold)
    objects = []
    rs = records(2 if chunk_bytes == 1 else 6)
    for r in rs:
        sink.add(r)
        objects += sink.finish_unit().objects
        assert not (hold and objects)
    objects += sink.finish()
    found = stored(objects, chunk_of(sink))
    for name, want in zip(chunk_of(sink), streams(rs), strict=True):
        assert found[name][: len(want)] == want
        rest = found[name][len(want) :]
        assert not any(rest)
        assert len(rest) < sink.chunk_sizes()[0] if not hold else len(rest) < 64


def test_an_array_resumed_anywhere_is_cut_alike():
    rs = records()
    whole = ArrayWriter(n_groups=5, name="z", chunk_bytes=333, hold=False)
    expected = []
    for r in rs:
        whole.add(r)
        expected += whole.finish_unit().objects
    expected += whole.finish()
    lengths = np.array([[len(x) for x in r.regions] for r in rs])
    ends = np.concatenate((np.zeros((1, 6), int), np.cumsum(lengths, axis=0))).tolist()
    for done in range(len(rs) + 1):
        sink = ArrayWriter(n_groups=5, name="z", chunk_bytes=333, hold=False)
        safe = sink.stored_of(ends[done])
        first = done
        while first and any(a > b for a, b in zip(ends[first], safe, strict=True)):
            first -= 1
        sink.resume(ends[first], ends[done])
        again = []
        for i in range(first, len(rs)):
            sink.add(rs[i])
            unit = sink.finish_unit()
            again += unit.objects
            assert unit.rows.records["start"][0].tolist() == ends[i]
            if i < done:
                assert unit.objects == ()
        again += sink.finish()
        assert dict(again).items() <= dict(expected).items()
        n_before = sum(n // 333 for n in ends[done])
        assert len(again) == len(expected) - n_before


def test_held_arrays_divide_evenly():
    sink = ArrayWriter(n_groups=5, name="z", chunk_bytes=1000, hold=True)
    assert sink.stored_of([5000] * 6) == [0] * 6
    sink.add(build(GOOD))
    for n, size in zip(sink.positions, sink.chunk_sizes(), strict=True):
        assert size <= 1000
        assert -(-n // size) * size - n < -(-n // 1000)
