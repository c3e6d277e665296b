"""Rows are cut and joined record by record, and the images stay with their records."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_parts import G, part, rows

from pcrstore.format.columns import COLUMNS
from pcrstore.format.index_pages import decode_directory
from pcrstore.format.index_rows import concat, decode_part, header_edges


def assert_same(a, b):
    assert np.array_equal(a.records, b.records)
    assert a.headers == b.headers
    assert np.array_equal(a.restore, b.restore)
    assert a.columns.keys() == b.columns.keys()
    for name, values in a.columns.items():
        assert np.array_equal(np.asarray(values), np.asarray(b.columns[name])), name
        assert isinstance(values, list) == isinstance(b.columns[name], list)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_cutting_and_joining_changes_nothing(sizes, data):
    some = rows(sizes=sizes)
    inner = st.lists(st.integers(1, len(sizes)), max_size=3)
    edges = sorted({0, len(sizes), *data.draw(inner)})
    pieces = [some.slice(a, b) for a, b in pairwise(edges)]
    assert_same(concat(pieces), some)
    assert [p.n_images for p in pieces] == [sum(sizes[a:b]) for a, b in pairwise(edges)]


CUTS = {
    "first": (0, 1, ["cat/0", "cat/1"]),
    "last": (1, 2, ["cat/2", "cat/3", "cat/4"]),
    "none": (1, 1, []),
    "all": (0, 2, ["cat/0", "cat/1", "cat/2", "cat/3", "cat/4"]),
}


@pytest.mark.parametrize(("start", "stop", "keys"), CUTS.values(), ids=CUTS)
def test_a_slice_takes_its_images_along(start, stop, keys):
    piece = rows(sizes=(2, 3)).slice(start, stop)
    assert [k.partition("\u00e9")[0] for k in piece.columns["key"]] == keys
    assert len(piece.headers) == len(piece.records) == stop - start
    assert piece.n_images == len(keys) == len(piece.columns["source_sha256"])


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_rows_come_back_from_their_part(layout):
    entry, data = part(layout)
    directory = decode_directory(
        data[: entry.head.n_bytes], entry, layout=layout, n_groups=G, columns=COLUMNS
    )
    assert_same(decode_part(data, directory, COLUMNS), rows(layout))


def test_header_edges_start_at_0_and_end_where_the_last_ends():
    some = rows(sizes=(8, 9, 1))
    edges = header_edges(some.records, G).tolist()
    joined = b"".join(some.headers)
    assert edges[0] == 0
    assert edges[-1] == len(joined)
    assert [joined[a:b] for a, b in pairwise(edges)] == some.headers
