"""Check a Zarr group of the zarr layout against the index that names its arrays.

    zarr.json of each array ──▶ type, shape, chunks: as the run says, or as FORMAT.md does
    side arrays             ──▶ offsets, checksums, labels, keys: as the records of the index say

Side arrays describe all images of a conversion, in its order; a version may have some of them. They
are read a chunk at a time, as far as records of the index need them.

Example: records of 2 and 3 images, whose cells of group 1 have 5, 7 and 4, 6, 8 bytes. The group
has `record_first_image` 0, 2, 5 and `image_offsets[:, 0]` 0, 5, 12, 16, 22, 30. The record of the
index that begins at byte 12 of `group_1` is that of images 2, 3 and 4.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import place_words
from pcrstore.errors import FormatError
from pcrstore.format import (
    ArraySpec,
    Directory,
    Header,
    Manifest,
    Rows,
    Run,
    array_name,
    region_specs,
)

__all__ = ["ZarrGroup", "groups_of"]

_Read = Callable[[str], bytes]
_Faults = Iterator[tuple[str, str]]
"""Names of objects, and what is wrong with them."""

_SIDE: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "record_first_image": ("uint64", ("record_edge",)),
    "image_offsets": ("uint64", ("image_edge", "region")),
    "image_checksums": ("uint32", ("image", "group")),
    "opaque": ("uint8", ("image",)),
    "labels": ("int64", ("image",)),
    "key_bytes": ("uint8", ("key_byte",)),
    "key_offsets": ("uint64", ("image_edge",)),
}
"""Type and axes of the arrays beside the regions."""

_CODECS: Final = (
    [{"name": "bytes", "configuration": {"endian": "little"}}],
    [{"name": "bytes"}],
)
"""Ways to say that an array's bytes are stored as they are; the second is for single bytes."""

_COMPARED: Final = (
    *("zarr_format", "node_type", "data_type", "shape", "chunk_grid", "chunk_key_encoding"),
    *("fill_value", "dimension_names"),
)


def groups_of(
    directory: Directory, rows: Rows
) -> Iterator[tuple[tuple[Run, ...], NDArray[np.int64]]]:
    """Yield the arrays of each group that holds records of a part, and the records it holds.

    Raises:
        FormatError: Regions of a record that do not lie in the arrays of one group.
    """
    where = directory.entry.name
    found, inverse = np.unique(rows.records["object"], axis=0, return_inverse=True)
    for i, numbers in enumerate(found.tolist()):
        runs = tuple(directory.runs[n] for n in numbers)
        records = np.flatnonzero(inverse.ravel() == i)
        group = runs[0].name.rpartition("/")[0]
        expected = [f"{group}/{array_name(g, directory.n_groups)}" for g in range(len(runs))]
        if [run.name for run in runs] != expected or len({run.uid for run in runs}) > 1:
            raise FormatError(
                f"{where}: regions of record {records[0]} must lie in the arrays of one group, "
                f"got {[run.name for run in runs]}"[:300]
            )
        yield runs, records


class ZarrGroup:
    """One group; what it says of its images is read when asked for.

    Args:
        runs: The arrays of its regions, (G + 1,).
        m: Manifest of the version.
        read: Returns an object by name, checked against the manifest.
    """

    def __init__(self, runs: Sequence[Run], m: Manifest, read: _Read) -> None:
        self._name = runs[0].name.rpartition("/")[0]
        self._runs = tuple(runs)
        self._labels = [*m.group_labels]
        self._read = read
        self._members: dict[str, object] = {}
        self._arrays: dict[str, _Array] = {}
        self._classes: list[object] = []
        self._first_image = np.zeros(0, np.int64)
        self._begins = np.zeros(0, np.int64)

    def faults(self) -> _Faults:
        """Yield what is wrong with the group by itself; after a fault it has no records."""
        n_faults = 0
        for name, message in self._metadata_faults():
            n_faults += 1
            yield name, message
        if n_faults:
            return
        arrays = self._arrays
        n = arrays["image_checksums"].n
        for name, expected in (
            ("image_offsets", n + 1),
            ("opaque", n),
            ("labels", n),
            ("key_offsets", n + 1),
        ):
            if arrays[name].n != expected:
                place = f"{self._name}/{name}/zarr.json"
                yield place, f"must be of {n} images, as image_checksums is, got {arrays[name].n}"
                return
        edges = np.concatenate([*arrays["record_first_image"].chunks()]).astype(np.int64)
        if edges[:1].tolist() != [0] or edges[-1] != n or (np.diff(edges) < 1).any():
            yield f"{self._name}/record_first_image", f"must rise from 0 to {n}"
            return
        self._first_image = edges
        self._begins = self._starts_of(edges[:-1])
        if (np.diff(self._begins) < 1).any():
            yield f"{self._name}/image_offsets", "must rise from record to record"
            self._begins = self._begins[:0]

    def _starts_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where images begin in `group_1`."""
        found, base = [np.zeros(0, np.int64)], 0
        for chunk in self._arrays["image_offsets"].chunks():
            a, b = np.searchsorted(images, (base, base + len(chunk)))
            found.append(chunk[images[a:b] - base, 0].astype(np.int64))
            base += len(chunk)
        return np.concatenate(found)

    def _metadata_faults(self) -> _Faults:
        specs = region_specs(
            [run.n_bytes for run in self._runs], [run.chunk or 1 for run in self._runs]
        )
        for name in (*specs, *_SIDE):
            place = f"{self._name}/{name}/zarr.json"
            try:
                found = self._members[name] = _json(self._read(place))
                spec = specs.get(name) or self._side_spec(name, found)
                wrong = _difference(found, spec)
            except FormatError as e:
                wrong = str(e)
            else:
                self._arrays[name] = _Array(f"{self._name}/{name}", spec, self._read)
            if wrong:
                yield place, wrong
        place = f"{self._name}/zarr.json"
        try:
            wrong = self._group_fault(_json(self._read(place)))
        except FormatError as e:
            wrong = str(e)
        if wrong:
            yield place, wrong

    def _side_spec(self, name: str, found: Mapping[str, Any]) -> ArraySpec:
        """Return the spec of an array beside the regions, with the size and chunks that it says."""
        dtype, dimensions = _SIDE[name]
        n_groups = len(self._labels)
        rest = [{"region": n_groups + 1, "group": n_groups}[d] for d in dimensions[1:]]
        try:
            n = found["shape"][0]
            rows = found["chunk_grid"]["configuration"]["chunk_shape"][0]
        except (KeyError, IndexError, TypeError):
            n = rows = None
        if type(n) is not int or type(rows) is not int or n < 0 or rows < 1:
            raise FormatError("must say the shape and the chunks of an array")
        return ArraySpec(dtype=dtype, shape=(n, *rest), chunk_rows=rows, dimensions=dimensions)

    def _group_fault(self, found: Mapping[str, Any]) -> str | None:
        attributes = found.get("attributes")
        table = attributes if isinstance(attributes, dict) else {}
        classes = table.get("classes")
        self._classes = classes if isinstance(classes, list) else []
        if (found.get("zarr_format"), found.get("node_type")) != (3, "group"):
            return "must be a Zarr v3 group"
        about = {"conversion": self._runs[0].uid, "groups": self._labels}
        if table.get("pcrstore") != about:
            return f"attribute pcrstore must be {about}, got {str(table.get('pcrstore'))[:80]}"
        if not isinstance(classes, list):
            return "attribute classes must be a list"
        hint = found.get("consolidated_metadata")
        members = hint.get("metadata") if isinstance(hint, dict) else None
        return None if members == self._members else "consolidated metadata must be its arrays'"

    def record_faults(
        self, m: Manifest, directory: Directory, rows: Rows, headers: Mapping[int, Header]
    ) -> _Faults:
        """Yield the array that says otherwise of a record than the index; the first is enough.

        Args:
            m: Manifest of the version.
            directory: Of a part.
            rows: All of it.
            headers: Of its records that are in this group, by number.
        """
        if not len(self._begins):
            return
        ids = {name: i for i, name in enumerate(m.classes)}
        edges = np.concatenate(([0], np.cumsum(rows.records["n_images"], dtype=np.int64)))
        for r, header in headers.items():
            row = rows.records[r]
            at = int(np.searchsorted(self._begins, int(row["start"][0])))
            found = self._begins[at : at + 1].tolist() == [int(row["start"][0])]
            first, stop = self._first_image[at : at + 2].tolist() if found else (0, 0)
            if stop - first != header.n_images:
                place = f"{self._name}/record_first_image"
                yield place, f"must have record {r} of {directory.entry.name}"
                return
            images = slice(int(edges[r]), int(edges[r + 1]))
            wrong = self._record_fault(row, header, rows, images, range(first, stop), ids)
            if wrong is not None:
                place = f"{self._name}/{wrong}"
                yield place, f"must say of record {at} what {directory.entry.name} does"
                return

    def _record_fault(
        self,
        row: np.void,
        header: Header,
        rows: Rows,
        images: slice,
        mine: range,
        ids: Mapping[str, int],
    ) -> str | None:
        """Return the array that says otherwise of the images `mine`; None if none does."""

        def side(name: str, extra: int = 0) -> NDArray[Any]:
            return self._arrays[name].rows(mine.start, mine.stop + extra)

        words = place_words(header.seed, header.n_images, header.n_groups)
        sizes = np.column_stack((header.lengths, rows.restore["length"][images]))
        starts = np.concatenate((row["start"][None], sizes)).astype(np.uint64)
        labels = [self._label(v, ids) for v in side("labels").tolist()]
        a, *_, b = edges = side("key_offsets", 1).tolist()
        text = self._arrays["key_bytes"].rows(a, b).tobytes() if a <= b else b""
        keys = [text[i - a : j - a] for i, j in pairwise(edges)]
        for name, same in (
            ("image_offsets", np.array_equal(side("image_offsets", 1), np.cumsum(starts, axis=0))),
            ("image_checksums", np.array_equal(side("image_checksums"), header.checksums ^ words)),
            ("opaque", np.array_equal(side("opaque"), header.opaque)),
            ("labels", labels == np.asarray(rows.columns["label"])[images].tolist()),
            ("key_bytes", keys == [key.encode() for key in rows.columns["key"][images]]),
        ):
            if not same:
                return name
        return None

    def _label(self, label: int, ids: Mapping[str, int]) -> int | None:
        """Return the id in the manifest of one of the group's classes, and -1 for none."""
        if not 0 <= label < len(self._classes):
            return label if label == -1 else None
        name = self._classes[label]
        return ids.get(name) if isinstance(name, str) else None


class _Array:
    """An array that is chunked along its first axis; the chunk read last is kept."""

    def __init__(self, place: str, spec: ArraySpec, read: _Read) -> None:
        self._place = place
        self._spec = spec
        self._read = read
        self._last: tuple[int, NDArray[Any]] | None = None

    @property
    def n(self) -> int:
        """Length of the first axis."""
        return self._spec.shape[0]

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Yield the rows of each chunk."""
        yield np.zeros((0, *self._spec.shape[1:]), self._spec.dtype)
        for c in range(self._spec.n_chunks):
            yield self._chunk(c)

    def _chunk(self, c: int) -> NDArray[Any]:
        if self._last is None or self._last[0] != c:
            spec = self._spec
            name = f"{self._place}/{spec.chunk_key(c)}"
            data = self._read(name)
            shape = (spec.chunk_rows, *spec.shape[1:])
            dtype = np.dtype(spec.dtype).newbyteorder("<")
            if len(data) != prod(shape) * dtype.itemsize:
                raise FormatError(f"{name}: must have {spec.chunk_rows} rows")
            left = spec.shape[0] - c * spec.chunk_rows
            self._last = c, np.frombuffer(data, dtype).reshape(shape)[:left]
        return self._last[1]

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows `start` to `stop`; fewer where the array ends before."""
        size = self._spec.chunk_rows
        stop = min(stop, self.n)
        pieces = [
            self._chunk(c)[max(0, start - c * size) : stop - c * size]
            for c in range(start // size, -(-stop // size))
        ]
        return np.concatenate([np.zeros((0, *self._spec.shape[1:]), self._spec.dtype), *pieces])


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise FormatError(f"must be JSON: {e}") from e
    if not isinstance(value, dict):
        raise FormatError("must be a JSON object")
    return value


def _difference(found: Mapping[str, Any], spec: ArraySpec) -> str | None:
    """Return the first field of a zarr.json that is not as expected."""
    expected = spec.to_json()
    for key in _COMPARED:
        if found.get(key) != expected[key]:
            return f"{key} must be {expected[key]}, got {str(found.get(key))[:80]}"
    if found.get("codecs") not in _CODECS[: 2 if spec.dtype == "uint8" else 1]:
        return f"codecs must be bytes, little-endian, alone, got {str(found.get('codecs'))[:80]}"
    if found.get("storage_transformers"):
        return "storage_transformers must be none"
    return None
