"""Rows of a read: their Arrow schema, tables of some images, and columns as arrays.

    schema_of(ds, names, decode)     key: string, label: int64, split: string, ..., image
    table_of(ds, images, k, schema)  a row for each of some images, in the order given
    LazyColumns(ds)                  columns of all images, each read when it is first used

Class ids stay numbers; ids of splits and formats, which mean nothing to a user, become names.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pcrstore.dataset import Dataset
from pcrstore.errors import OptionError
from pcrstore.format import FORMATS, Values
from pcrstore.ray.libraries import ArrowVariableShapedTensorArray, pa

__all__ = ["BASE", "LazyColumns", "schema_of", "table_of"]

BASE = ("key", "label", "split")
"""Columns of every row, beside `image`."""


def schema_of(ds: Dataset, names: Sequence[str], *, decode: bool) -> pa.Schema:
    """Return the schema of rows with some columns of a dataset, and the image last.

    Args:
        ds: The dataset.
        names: Names of its columns.
        decode: True for pixels as a tensor (H, W, 3); False for the bytes of a file.

    Raises:
        OptionError: The dataset has no such column.
    """
    columns = {column.name: column for column in ds.manifest.columns}
    fields: list[tuple[str, pa.DataType]] = []
    for name in names:
        if name not in columns:
            raise OptionError(f"column must be one of {', '.join(sorted(columns))}, got {name}")
        column = columns[name]
        if column.row_dtype is None or name in ("split", "format"):
            kind = pa.string()
        elif name == "label":
            kind = pa.int64()
        else:
            kind = pa.from_numpy_dtype(np.dtype(column.dtype))
            kind = pa.list_(kind, column.width) if column.width > 1 else kind
        fields.append((name, kind))
    pixels = ArrowVariableShapedTensorArray.from_numpy([np.zeros((1, 1, 3), np.uint8)])
    return pa.schema([*fields, ("image", pixels.type if decode else pa.binary())])


def table_of(ds: Dataset, images: NDArray[np.int64], fidelity: int, schema: pa.Schema) -> pa.Table:
    """Return some images as rows of a schema; pixels are decoded where the schema has tensors."""
    at = images.tolist()
    *columns, image = schema
    arrays = [_arrow(_named(ds, c.name, ds.column(c.name, at)), c.type) for c in columns]
    if image.type == pa.binary():
        arrays.append(pa.array(ds.fetch(at, fidelity), image.type))
    else:
        arrays.append(ArrowVariableShapedTensorArray.from_numpy(ds.read(at, fidelity)))
    return pa.Table.from_arrays([pa.chunked_array([a]) for a in arrays], schema=schema)


def _arrow(values: list[str | None] | Values, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(values.ravel(), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.array(values, kind)


def _named(ds: Dataset, name: str, values: Values) -> list[str | None] | Values:
    """Return a column with names in place of ids, where its ids mean nothing to a user."""
    if name == "split":
        names = dict(enumerate(ds.splits))
        return [names.get(int(v)) for v in np.asarray(values)]
    if name == "format":
        return [FORMATS.get(int(v), "unknown") for v in np.asarray(values)]
    return values


class _NoColumnError(OptionError, KeyError):
    """A key that is not a column: the error that a mapping raises, and an `OptionError`."""

    __str__ = Exception.__str__  # KeyError's own shows a message in quotes


class LazyColumns(Mapping[str, NDArray[np.generic]]):
    """Columns of all images as arrays, (N,) each, read from the index when they are first used."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._read: dict[str, NDArray[np.generic]] = {}

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if name not in self:
            known = ", ".join(sorted(self))
            raise _NoColumnError(f"column must be one of {known}, got {name}")
        if name not in self._read:
            self._read[name] = np.asarray(_named(self._ds, name, self._ds.column(name)))
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._ds.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._ds.columns)

    def __len__(self) -> int:
        return len(self._ds.columns)
