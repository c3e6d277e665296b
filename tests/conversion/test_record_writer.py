"""Records of a unit lie back to back in one object."""

from built_records import GOOD, IDS, UNIT, build
from flows import photo

from pcrstore.conversion.record_writer import RecordWriter


def records(n):
    return [build([(f"{i}.jpg", photo(i))], ordinal=i) for i in range(n)]


def test_records_of_a_unit_are_back_to_back():
    rs = records(3)
    empty = build([("bad", b"x")], "skip")
    placed = RecordWriter(IDS).place(UNIT, [*rs[:2], empty, rs[2]])
    ((name, data),) = placed.objects
    assert name == placed.object.name == f"objects/{IDS.content}-000000-skip.pcr"
    assert data == b"".join(r.header + b"".join(r.regions) for r in rs)
    assert placed.object.n_bytes == len(data)
    for row, r in zip(placed.rows.records, rs, strict=True):
        at = int(row["start"][0])
        assert data[at : at + len(r.header)] == r.header


def test_only_a_unit_with_problems_is_named_by_its_policy():
    placed = RecordWriter(IDS).place(UNIT, [build(GOOD)])
    assert placed.object.name == f"objects/{IDS.content}-000000.pcr"


def test_a_unit_without_images_makes_no_object():
    placed = RecordWriter(IDS).place(UNIT, [build([("bad", b"x")], "skip")])
    assert (placed.object, placed.rows, placed.objects) == (None, None, ())


def test_a_unit_with_a_refused_file_has_no_place_and_the_next_one_has():
    writer = RecordWriter(IDS)
    assert writer.place(UNIT, [build(GOOD), build([("bad", b"x")])]) is None
    assert writer.place(UNIT, [build(GOOD)]) is not None
