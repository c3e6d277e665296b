"""The Zarr v3 metadata of a version's arrays, in either layout.

Pure. Stable data types and the `bytes` codec alone, so that any Zarr v3 reader sees every byte:

    group_1 .. group_G   uint8   (bytes of the group,)    scan groups, records back to back
    restore              uint8   (bytes,)                 restore blobs, likewise
    record_first_image   uint64  (R + 1,)                 first image of each record, then N
    image_offsets        uint64  (N + 1, G + 1)           where image i starts in each of them
    image_checksums      uint32  (N, G)                   CRC32C of each cell, not bound to a place
    opaque               uint8   (N,)                     1: group 1 holds a whole source file
    labels               int64   (N,)
    key_bytes            uint8   (bytes,)                 keys, UTF-8, back to back
    key_offsets          uint64  (N + 1,)

    JPEG of image i at fidelity k = concat(group_g[image_offsets[i, g-1] : image_offsets[i+1, g-1]]
                                           for g in 1..k) + FF D9

Spec: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import place_words
from pcrstore.format.names import array_name, chunk_key
from pcrstore.format.record import parse_header

__all__ = [
    "CHUNK_BYTES",
    "ROOTS",
    "ROOT_JSON",
    "ArraySpec",
    "SideRows",
    "chunks",
    "even_chunk",
    "region_specs",
    "side_arrays",
    "side_objects",
    "side_spec",
    "unbound_checksums",
    "zarr_group_json",
]

CHUNK_BYTES: Final = 8 * 2**20
"""Chunk of the scan group arrays: S3's advice for a range is 8 to 16 MB, and an object this small
still lets one group of a part go to a colder storage class."""

_SIDE_CHUNK_BYTES: Final = 8 * 2**20

_SIDE_DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "record_first_image": ("record_edge",),
    "image_offsets": ("image_edge", "region"),
    "image_checksums": ("image", "group"),
    "opaque": ("image",),
    "labels": ("image",),
    "key_bytes": ("key_byte",),
    "key_offsets": ("image_edge",),
}
"""Names of the axes of the arrays beside the regions."""

ROOT_JSON: Final = b'{"attributes":{},"node_type":"group","zarr_format":3}'
"""The zarr.json of the nodes above the groups of conversions: an empty group."""

ROOTS: Final = ("zarr.json", "zarr/zarr.json")
"""Names of those nodes: `zarr.open` takes the URL of a dataset, and finds `zarr/<conversion>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """An array's shape and chunks; chunked along its first axis alone."""

    dtype: str
    """Zarr's name of the data type."""
    shape: tuple[int, ...]
    chunk_rows: int
    dimensions: tuple[str, ...]
    """Name of each axis. In a group a name has one size, as xarray wants it."""

    @property
    def n_chunks(self) -> int:
        """Chunks, all along the first axis."""
        return -(-self.shape[0] // self.chunk_rows)

    def chunk_key(self, chunk: int) -> str:
        """Return a chunk's name below its array."""
        return chunk_key(chunk) + "/0" * (len(self.shape) - 1)

    def to_json(self) -> dict[str, object]:
        """Return the content of the array's zarr.json."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.chunk_rows, *self.shape[1:]]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]
            if self.dtype != "uint8"
            else [{"name": "bytes"}],
            "attributes": {},
            "dimension_names": list(self.dimensions),
            "storage_transformers": [],
        }


def region_specs(lengths: Sequence[int], chunk_bytes: Sequence[int]) -> dict[str, ArraySpec]:
    """Return the arrays of the regions, given the bytes of each: groups 1..G, restore."""
    n_groups = len(lengths) - 1
    out: dict[str, ArraySpec] = {}
    for g, (n, size) in enumerate(zip(lengths, chunk_bytes, strict=True)):
        name = array_name(g, n_groups)
        out[name] = ArraySpec(
            dtype="uint8", shape=(n,), chunk_rows=size, dimensions=(f"{name}_byte",)
        )
    return out


def even_chunk(n_bytes: int, most: int) -> int:
    """Return a chunk size of at most `most` that leaves the last chunk almost full.

    >>> even_chunk(120, 100)  # 60 and 60, where 100 would leave 80 bytes of the second unused
    60
    """
    n_chunks = max(1, -(-n_bytes // most))
    return max(1, -(-n_bytes // n_chunks))


def unbound_checksums(
    headers: Sequence[bytes], seeds: Sequence[int], rows: NDArray[np.void], n_groups: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8]]:
    """Return lengths (N, G), plain CRC32Cs (N, G) and opaque flags (N,) of some records."""
    lengths, sums, opaque = [], [], []
    for data, seed, row in zip(headers, seeds, rows, strict=True):
        n = int(row["n_images"])
        h = parse_header(data, seed=seed, n_images=n, n_groups=n_groups, where="index")
        lengths.append(h.lengths)
        sums.append(h.checksums ^ place_words(seed, n, n_groups))
        opaque.append(h.opaque.astype(np.uint8))
    return np.concatenate(lengths), np.concatenate(sums), np.concatenate(opaque)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRows:
    """Values of the arrays beside the regions: per image, or per record."""

    lengths: NDArray[np.uint32]
    """Bytes of each cell. (N, G)"""
    checksums: NDArray[np.uint32]
    """CRC32C of each cell. (N, G)"""
    opaque: NDArray[np.uint8]
    restore_lengths: NDArray[np.uint32]
    images_per_record: NDArray[np.uint32]
    labels: NDArray[np.int32]
    keys: Sequence[str]


def side_objects(
    streams: Mapping[str, ArraySpec],
    rows: SideRows,
    *,
    conversion: str,
    group_labels: Sequence[str],
    classes: Sequence[str],
) -> Iterator[tuple[str, bytes]]:
    """Yield all objects of a group but the chunks of its regions, by name: arrays, then metadata.

    Args:
        streams: The arrays of the regions, which lie back to back.
        rows: All images and records of the dataset.
        conversion: Id of the conversion, for the attributes of the group.
        group_labels: Labels of the scan groups, for the same.
        classes: Names of the classes, for the same.
    """
    specs = dict(streams)
    for name, values in side_arrays(rows).items():
        specs[name] = side_spec(values, _SIDE_DIMENSIONS[name])
        for key, data in chunks(values, specs[name]).items():
            yield f"{name}/{key}", data
    attributes = {
        "pcrstore": {"conversion": conversion, "groups": list(group_labels)},
        "classes": list(classes),
    }
    yield from zarr_group_json(specs, attributes).items()


def side_arrays(rows: SideRows) -> dict[str, NDArray[np.generic]]:
    """Return the arrays beside the regions, for a dataset whose regions lie back to back."""
    sizes = np.column_stack((rows.lengths, rows.restore_lengths)).astype(np.uint64)
    encoded = [k.encode() for k in rows.keys]
    return {
        "record_first_image": _edges(rows.images_per_record.astype(np.uint64)),
        "image_offsets": _edges(sizes),
        "image_checksums": rows.checksums.astype("<u4"),
        "opaque": rows.opaque,
        "labels": rows.labels.astype("<i8"),
        "key_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "key_offsets": _edges(np.array([len(k) for k in encoded], np.uint64)),
    }


def _edges(sizes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    zero = np.zeros((1, *sizes.shape[1:]), np.uint64)
    return np.concatenate((zero, np.cumsum(sizes, axis=0, dtype=np.uint64)))


def side_spec(values: NDArray[np.generic], dimensions: tuple[str, ...]) -> ArraySpec:
    """Return the spec of an array beside the regions."""
    row = max(1, values.itemsize * int(np.prod(values.shape[1:], dtype=int)))
    rows = max(1, min(values.shape[0], _SIDE_CHUNK_BYTES // row))
    return ArraySpec(
        dtype=str(values.dtype.name), shape=values.shape, chunk_rows=rows, dimensions=dimensions
    )


def chunks(values: NDArray[np.generic], spec: ArraySpec) -> dict[str, bytes]:
    """Return an array's chunks by name; the last is filled up with zeros."""
    out: dict[str, bytes] = {}
    for c in range(spec.n_chunks):
        part = np.ascontiguousarray(values[c * spec.chunk_rows : (c + 1) * spec.chunk_rows])
        missing = spec.chunk_rows - len(part)
        row = values.itemsize * int(np.prod(values.shape[1:], dtype=int))
        out[spec.chunk_key(c)] = part.tobytes() + bytes(missing * row)
    return out


def zarr_group_json(
    specs: Mapping[str, ArraySpec], attributes: Mapping[str, object]
) -> dict[str, bytes]:
    """Return every zarr.json of a group by name, with consolidated metadata in its root."""
    members = {name: spec.to_json() for name, spec in sorted(specs.items())}
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": members,
        },
    }
    out = {"zarr.json": _dump(root)}
    out.update({f"{name}/zarr.json": _dump(m) for name, m in members.items()})
    return out


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()
