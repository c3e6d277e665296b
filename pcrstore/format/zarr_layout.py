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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import place_words
from pcrstore.format.names import array_name, chunk_key
from pcrstore.format.record import parse_header

__all__ = [
    "CHUNK_BYTES",
    "ArraySpec",
    "chunks",
    "region_specs",
    "side_arrays",
    "side_spec",
    "unbound_checksums",
    "zarr_group_json",
]

CHUNK_BYTES: Final = 8 * 2**20
"""Chunk of the scan group arrays: S3's advice for a range is 8 to 16 MB, and an object this small
still lets one group of a part go to a colder storage class."""

_SIDE_CHUNK_BYTES: Final = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """An array's shape and chunks; chunked along its first axis alone."""

    dtype: str
    """Zarr's name of the data type."""
    shape: tuple[int, ...]
    chunk_rows: int

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
            "storage_transformers": [],
        }


def region_specs(lengths: Sequence[int], chunk_bytes: Sequence[int]) -> dict[str, ArraySpec]:
    """Return the arrays of the regions, given the bytes of each: groups 1..G, restore."""
    n_groups = len(lengths) - 1
    return {
        array_name(g, n_groups): ArraySpec(dtype="uint8", shape=(n,), chunk_rows=size)
        for g, (n, size) in enumerate(zip(lengths, chunk_bytes, strict=True))
    }


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


def side_arrays(
    *,
    lengths: NDArray[np.uint32],
    checksums: NDArray[np.uint32],
    opaque: NDArray[np.uint8],
    restore_lengths: NDArray[np.uint32],
    images_per_record: NDArray[np.uint32],
    labels: NDArray[np.int32],
    keys: Sequence[str],
) -> dict[str, NDArray[np.generic]]:
    """Return the arrays beside the regions, for a dataset whose regions lie back to back."""
    sizes = np.column_stack((lengths, restore_lengths)).astype(np.uint64)
    encoded = [k.encode("utf-8", "surrogateescape") for k in keys]
    return {
        "record_first_image": _edges(images_per_record.astype(np.uint64)),
        "image_offsets": _edges(sizes),
        "image_checksums": checksums.astype("<u4"),
        "opaque": opaque,
        "labels": labels.astype("<i8"),
        "key_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "key_offsets": _edges(np.array([len(k) for k in encoded], np.uint64)),
    }


def _edges(sizes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    zero = np.zeros((1, *sizes.shape[1:]), np.uint64)
    return np.concatenate((zero, np.cumsum(sizes, axis=0, dtype=np.uint64)))


def side_spec(values: NDArray[np.generic]) -> ArraySpec:
    """Return the spec of an array beside the regions."""
    row = max(1, values.itemsize * int(np.prod(values.shape[1:], dtype=int)))
    rows = max(1, min(values.shape[0], _SIDE_CHUNK_BYTES // row))
    return ArraySpec(dtype=str(values.dtype.name), shape=values.shape, chunk_rows=rows)


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
