"""Records are appended in order, and arrays are cut alike however often they are resumed."""

import numpy as np
import pytest
from built_records import GOOD, IDS, array_writer, build, units
from flows import photo

from pcrstore.conversion.journal import FinishedUnit, Outcomes
from pcrstore.core.checksum import record_seed

STREAMS = [*(f"group_{g}" for g in range(1, 6)), "restore"]


def records(n=6):
    uid = bytes.fromhex(IDS.conversion)
    return [build([(f"{i}.jpg", photo(i))], ordinal=i, seed=record_seed(uid, i)) for i in range(n)]


def streams(rs):
    return [b"".join(r.regions[g] for r in rs) for g in range(6)]


def left(writer):
    """What is left to store of the streams."""
    return [(e.name, e.data) for e in writer.finish() if not e.is_checked]


def stored(objects, chunk):
    """Array -> its bytes, put together from chunks, each of which comes once."""
    out = {}
    for name, data in objects:
        array, _, number = name.removeprefix(f"zarr/{IDS.conversion}/").partition("/c/")
        assert len(data) == chunk[array]
        assert out.setdefault(array, {}).setdefault(int(number), data) == data
    return {a: b"".join(c[i] for i in range(len(c))) for a, c in out.items()}


def chunk_sizes(writer):
    return [run.chunk for run in writer.runs()]


def chunk_of(writer):
    return dict(zip(STREAMS, chunk_sizes(writer), strict=True))


def placed_in_turn(writer, rs):
    """Place one record a unit; yield what is placed."""
    for unit, r in zip(units(len(rs)), rs, strict=True):
        placed = writer.place(unit, [r])
        writer.add_rows(placed.rows)
        yield placed


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 100, 10**6])
def test_arrays_hold_every_region_and_zeros(hold, chunk_bytes):
    writer = array_writer(chunk_bytes=chunk_bytes, hold=hold)
    rs = records(2 if chunk_bytes == 1 else 6)
    objects = [o for placed in placed_in_turn(writer, rs) for o in placed.objects]
    assert not (hold and objects)
    objects += left(writer)
    found = stored(objects, chunk_of(writer))
    for name, want in zip(STREAMS, streams(rs), strict=True):
        assert found[name][: len(want)] == want
        rest = found[name][len(want) :]
        assert not any(rest)
        assert len(rest) < chunk_sizes(writer)[0] if not hold else len(rest) < 64


def test_an_array_resumed_anywhere_is_cut_alike():
    rs = records()
    whole = array_writer(chunk_bytes=333)
    placed = list(placed_in_turn(whole, rs))
    expected = [o for p in placed for o in p.objects] + left(whole)
    lengths = np.array([[len(x) for x in r.regions] for r in rs])
    ends = np.concatenate((np.zeros((1, 6), int), np.cumsum(lengths, axis=0))).tolist()
    notes = {i: note(i, p) for i, p in enumerate(placed)}
    for done in range(len(rs) + 1):
        writer = array_writer(chunk_bytes=333)
        resumed = writer.resume({i: notes[i] for i in range(done)})
        assert resumed.done == {i: notes[i] for i in range(done)}
        first = min(resumed.replayed, default=done)
        assert resumed.replayed == set(range(first, done))
        again = []
        for i in range(len(rs)):
            if i < first:
                writer.add_rows(placed[i].rows)
                continue
            unit = writer.place(units(len(rs))[i], [rs[i]])
            writer.add_rows(unit.rows)
            again += unit.objects
            assert unit.rows.records["start"][0].tolist() == ends[i]
            if i < done:
                assert unit.objects == ()
        again += left(writer)
        assert dict(again).items() <= dict(expected).items()
        n_before = sum(n // 333 for n in ends[done])
        assert len(again) == len(expected) - n_before


def note(number, placed):
    return FinishedUnit(
        number=number,
        object=None,
        rows=placed.rows,
        outcomes=Outcomes(problems=(), quality=(), restore_bytes={}, restore_images={}),
    )


def test_units_after_a_hole_are_not_done():
    placed = list(placed_in_turn(array_writer(chunk_bytes=333), records(3)))
    notes = {i: note(i, placed[i]) for i in (0, 2)}
    assert array_writer(chunk_bytes=333).resume(notes).done == {0: notes[0]}


def test_no_unit_has_a_place_after_one_that_was_refused():
    writer = array_writer(chunk_bytes=333)
    first, second, third = units(3)
    assert writer.place(first, [build(GOOD)]) is not None
    assert writer.place(second, [build([("bad", b"x")])]) is None
    assert writer.place(third, [build(GOOD)]) is None


def test_a_unit_out_of_order_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="expected unit 0 next, got 1"):
        array_writer(chunk_bytes=333).place(units(2)[1], [build(GOOD)])


def test_held_arrays_divide_evenly():
    writer = array_writer(chunk_bytes=1000, hold=True)
    r = build(GOOD)
    writer.place(units(1)[0], [r])
    for n, size in zip(map(len, r.regions), chunk_sizes(writer), strict=True):
        assert size <= 1000
        assert -(-n // size) * size - n < -(-n // 1000)
