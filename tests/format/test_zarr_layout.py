"""The arrays of the zarr layout: their metadata is Zarr's, their chunks are the values."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_parts import UID, G, rows

from pcrstore.core.checksum import crc32c, record_seed
from pcrstore.errors import ChecksumError
from pcrstore.format.zarr_layout import (
    ArraySpec,
    SideRows,
    chunks,
    even_chunk,
    region_specs,
    side_arrays,
    side_objects,
    side_spec,
    unbound_checksums,
    zarr_group_json,
)

CHUNKS = {
    # id: (rows, rows per chunk, number of chunks)
    "empty": (0, 4, 0),
    "one": (1, 4, 1),
    "full": (4, 4, 1),
    "one-over": (5, 4, 2),
    "even": (8, 4, 2),
}


@pytest.mark.parametrize(("n", "size", "n_chunks"), CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("width", [None, 3])
def test_chunks_hold_the_values_and_zeros(n, size, n_chunks, width):
    shape = (n,) if width is None else (n, width)
    values = np.arange(1, np.prod(shape, dtype=int) + 1, dtype="<u4").reshape(shape)
    spec = ArraySpec(dtype="uint32", shape=shape, chunk_rows=size, dimensions=("x",))
    got = chunks(values, spec)
    tail = "" if width is None else "/0"
    assert (
        list(got)
        == [f"c/{i}{tail}" for i in range(n_chunks)]
        == [spec.chunk_key(i) for i in range(spec.n_chunks)]
    )
    row = 4 * (width or 1)
    assert all(len(data) == size * row for data in got.values())
    joined = b"".join(got.values())
    assert joined[: values.nbytes] == values.tobytes()
    assert not any(joined[values.nbytes :])


def test_metadata_is_that_of_the_specification():
    """https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html#metadata"""
    spec = ArraySpec(dtype="uint64", shape=(5, 3), chunk_rows=2, dimensions=("image", "group"))
    assert spec.to_json() == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [5, 3],
        "data_type": "uint64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 3]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": ["image", "group"],
        "storage_transformers": [],
    }
    spec = ArraySpec(dtype="uint8", shape=(5,), chunk_rows=2, dimensions=("image",))
    assert spec.to_json()["codecs"] == [{"name": "bytes"}]


def test_streams_are_the_groups_and_restore():
    specs = region_specs([10, 20, 5], [4, 20, 8])
    assert {
        k: (s.dtype, s.shape, s.chunk_rows, s.n_chunks, s.dimensions) for k, s in specs.items()
    } == {
        "group_1": ("uint8", (10,), 4, 3, ("group_1_byte",)),
        "group_2": ("uint8", (20,), 20, 1, ("group_2_byte",)),
        "restore": ("uint8", (5,), 8, 1, ("restore_byte",)),
    }


def test_a_group_has_consolidated_metadata():
    specs = region_specs([10, 20, 5], [4, 20, 8])
    out = zarr_group_json(specs, {"classes": ["cat"]})
    assert set(out) == {"zarr.json", *(f"{name}/zarr.json" for name in specs)}
    root = json.loads(out["zarr.json"])
    assert root["node_type"] == "group"
    assert root["attributes"] == {"classes": ["cat"]}
    assert root["consolidated_metadata"]["must_understand"] is False
    assert root["consolidated_metadata"]["metadata"] == {
        name: json.loads(out[f"{name}/zarr.json"]) for name in specs
    }


def test_chunks_are_even_and_waste_little():
    for n in (0, 1, 999, 2**23 - 1, 2**23, 2**23 + 1, 10**9, 10**12):
        size = even_chunk(n, 2**23)
        n_chunks = -(-n // size)
        assert 1 <= size <= 2**23
        assert n_chunks * size - n < max(1, n_chunks)


SIDE = {"small": (10, (), 10), "at-limit": (2**20, (), 2**20), "over": (2**20 + 1, (), 2**20)}


@pytest.mark.parametrize(("n", "tail", "expected"), SIDE.values(), ids=SIDE)
def test_side_arrays_have_chunks_of_8_mib(n, tail, expected):
    spec = side_spec(np.zeros((n, *tail), np.uint64), ("image",))
    assert (spec.dtype, spec.chunk_rows, spec.shape) == ("uint64", expected, (n,))


def test_side_arrays_chunk_whole_rows():
    spec = side_spec(np.zeros((400_000, 6), np.uint64), ("image", "group"))
    assert spec.chunk_rows == 8 * 2**20 // 48
    assert side_spec(np.zeros((0,), np.uint8), ("image",)).chunk_rows == 1


@settings(max_examples=30)
@given(
    records=st.lists(
        st.lists(st.lists(st.integers(0, 99), min_size=3, max_size=3), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_offsets_are_where_the_cells_lie_when_regions_are_back_to_back(records):
    lengths = np.array([row for r in records for row in r], np.uint32)
    n = len(lengths)
    keys = [f"k{i}\u00e9" for i in range(n)]
    rows = SideRows(
        lengths=lengths[:, :2],
        checksums=np.zeros((n, 2), np.uint32),
        opaque=np.zeros(n, np.uint8),
        restore_lengths=lengths[:, 2],
        images_per_record=np.array([len(r) for r in records], np.uint32),
        labels=np.arange(n, dtype=np.int32) - 1,
        keys=keys,
    )
    side = side_arrays(rows)
    offsets = side["image_offsets"]
    assert offsets.shape == (n + 1, 3)
    assert offsets[0].tolist() == [0, 0, 0]
    assert np.array_equal(np.diff(offsets.astype(np.int64), axis=0), lengths)
    assert side["record_first_image"].tolist() == [
        sum(len(r) for r in records[:i]) for i in range(len(records) + 1)
    ]
    raw, edges = side["key_bytes"].tobytes(), side["key_offsets"].tolist()
    assert [raw[a:b].decode() for a, b in pairwise(edges)] == keys
    assert side["labels"].tolist() == list(range(-1, n - 1))
    assert {k: str(v.dtype) for k, v in side.items()} == {
        "record_first_image": "uint64",
        "image_offsets": "uint64",
        "image_checksums": "uint32",
        "opaque": "uint8",
        "labels": "int64",
        "key_bytes": "uint8",
        "key_offsets": "uint64",
    }


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (1,) * 9], ids=str)
def test_a_dimension_has_one_size_in_a_group(sizes):
    """As xarray wants it."""
    n = sum(sizes)
    side = SideRows(
        lengths=np.ones((n, 2), np.uint32),
        checksums=np.zeros((n, 2), np.uint32),
        opaque=np.zeros(n, np.uint8),
        restore_lengths=np.ones(n, np.uint32),
        images_per_record=np.array(sizes, np.uint32),
        labels=np.zeros(n, np.int32),
        keys=[f"{i}\u00e9" for i in range(n)],
    )
    specs = region_specs([n, n, n], [4, 4, 4])
    objects = dict(
        side_objects(specs, side, conversion="ab", group_labels=("a", "b"), classes=("cat",))
    )
    arrays = json.loads(objects["zarr.json"])["consolidated_metadata"]["metadata"]
    found = {}
    for array in arrays.values():
        assert len(array["dimension_names"]) == len(array["shape"])
        for name, size in zip(array["dimension_names"], array["shape"], strict=True):
            assert found.setdefault(name, size) == size
    assert found["image"] == n
    assert found["image_edge"] == n + 1
    assert json.loads(objects["zarr.json"])["attributes"] == {
        "classes": ["cat"],
        "pcrstore": {"conversion": "ab", "groups": ["a", "b"]},
    }


def test_checksums_are_freed_from_their_place():
    some = rows(sizes=(2, 3))
    seeds = [record_seed(bytes.fromhex(UID), i) for i in range(2)]
    lengths, sums, opaque = unbound_checksums(some.headers, seeds, some.records, G)
    cells = [(b"a" * (i + 1), b"b" * i) for n in (2, 3) for i in range(n)]
    assert lengths.tolist() == [[len(a), len(b)] for a, b in cells]
    assert sums.tolist() == [[crc32c(a), crc32c(b)] for a, b in cells]
    assert opaque.tolist() == [0] * 5


def test_headers_of_other_records_are_refused():
    some = rows(sizes=(2, 3))
    seeds = [record_seed(bytes.fromhex(UID), i + 1) for i in range(2)]
    with pytest.raises(ChecksumError):
        unbound_checksums(some.headers, seeds, some.records, G)
