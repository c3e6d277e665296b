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
from pcrstore.format import FORMATS, Column, Values
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
        UnsupportedFormatError: A column of a type of a later version of the format.
    """
    columns = {column.name: column for column in ds.manifest.columns}
    fields: list[tuple[str, pa.DataType]] = []
    for name in names:
        if name not in columns:
            raise OptionError(f"column must be one of {', '.join(sorted(columns))}, got {name}")
        column = columns[name]
        column.require_known(ds.url)
        if name in ("split", "format"):
            fields.append((name, pa.string()))
        elif name == "label":
            fields.append((name, pa.int64()))
        else:
            fields.append((name, _type_of(column)))
    pixels = ArrowVariableShapedTensorArray.from_numpy([np.zeros((1, 1, 3), np.uint8)])
    return pa.schema([*fields, ("image", pixels.type if decode else pa.binary())])


def _type_of(column: Column) -> pa.DataType:
    """Return Arrow's type of a column: lists of lists for its axes, the first of any length."""
    if column.dtype == "bytes":
        kind = pa.binary()
    elif column.is_text:
        kind = pa.string()
    else:
        kind = pa.from_numpy_dtype(column.item)
    for n in reversed(column.shape):
        kind = pa.list_(kind) if n is None else pa.list_(kind, n)
    return kind


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


def _arrow(values: Values, kind: pa.DataType) -> pa.Array:
    """Return values as an Arrow array; an array (n, 3, 4) is lists of 3 lists of 4."""
    if isinstance(values, list):
        return pa.array([v.tolist() if isinstance(v, np.ndarray) else v for v in values], kind)
    kinds = [kind]
    kinds += [(kind := kind.value_type) for _ in values.shape[1:]]
    mask = np.ma.getmaskarray(values)
    is_null = mask.any(axis=tuple(range(1, mask.ndim)))
    out = pa.array(np.ma.getdata(values).ravel(), kinds[-1], mask=mask.ravel())
    for of in reversed(kinds[:-1]):
        nulls = pa.array(is_null) if of is kinds[0] else None
        out = pa.FixedSizeListArray.from_arrays(out, of.list_size, mask=nulls)
    return out


def _named(ds: Dataset, name: str, values: Values) -> Values:
    """Return a column with names in place of ids, where its ids mean nothing to a user."""
    if name == "split":
        names = dict(enumerate(ds.splits))
        return [names.get(int(v)) for v in np.asarray(values)]
    if name == "format":
        return [FORMATS[int(v)] for v in np.asarray(values)]
    return values


def _array(values: Values) -> NDArray[np.generic]:
    """Return values as an array (N,): text as such, other values in lists as objects."""
    if isinstance(values, np.ndarray):
        return values
    if all(isinstance(v, str) for v in values):
        return np.array(values, np.str_)
    out = np.empty(len(values), np.object_)
    for i, value in enumerate(values):  # at once, NumPy would take lists for rows of an array
        out[i] = value
    return out


class _NoColumnError(OptionError, KeyError):
    """A key that is not a column: the error that a mapping raises, and an `OptionError`."""

    __str__ = Exception.__str__  # KeyError's own shows a message in quotes


class LazyColumns(Mapping[str, NDArray[np.generic]]):
    """Columns of all images as arrays, (N,) each, read from the index when they are first used.

    Numbers are masked where they are null; text, or rows of any number, that may be null are
    objects, with None for null.
    """

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._read: dict[str, NDArray[np.generic]] = {}

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if name not in self:
            known = ", ".join(sorted(self))
            raise _NoColumnError(f"column must be one of {known}, got {name}")
        if name not in self._read:
            self._read[name] = _array(_named(self._ds, name, self._ds.column(name)))
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._ds.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._ds.columns)

    def __len__(self) -> int:
        return len(self._ds.columns)
