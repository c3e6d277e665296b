"""The bytes of a column's values, and back.

Pure. FORMAT.md, section 3.4, is the normative text: validity, rows, lengths, items.

Example: column `tags`, utf8 of shape [null], of three images, the second without a value.

    values      ["cat", "grey"]      None     ["dog"]
    validity    05                            bits 0 and 2
    rows        2                    0        1
    lengths     3, 4                          3
    items       catgrey                       dog
"""

from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcrstore.errors import FormatError
from pcrstore.format.columns import BYTES, Column, Values

__all__ = ["has_nulls", "masked", "null_values", "pack_values", "unpack_values"]


def has_nulls(values: Values) -> bool:
    """Say whether any value is null."""
    if isinstance(values, np.ndarray):
        return bool(np.ma.is_masked(values))
    return any(v is None for v in values)


def masked(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Return an array whose values are all null."""
    return np.ma.MaskedArray(np.zeros(shape, dtype), mask=np.ones(shape, np.bool_))


def null_values(column: Column, n: int, *, where: str) -> Values:
    """Return n values of a column that are all null.

    Raises:
        UnsupportedFormatError: The column has a type of a later version.
    """
    column.require_known(where)
    if column.is_array:
        return masked((n, *column.row_shape), column.item)
    return [None] * n


def pack_values(column: Column, values: Values, *, nulls: bool) -> bytes:
    """Return the bytes of values; with `nulls` some may be null.

    Raises:
        FormatError: A value that is not of the column's type and shape.
    """
    out: list[bytes] = []
    n = len(values)
    if nulls:
        out.append(np.packbits(_present(column, values), bitorder="little").tobytes())
    if column.is_array:
        array = np.ma.filled(np.ma.asarray(values), 0) if nulls else values
        return b"".join((*out, _numbers(column, array, (n, *column.row_shape))))
    blank: Any = () if column.is_ragged else _blank(column)
    rows = [blank if v is None else v for v in values] if nulls else list(values)
    if column.is_ragged:
        out.append(np.array([len(v) for v in rows], "<u4").tobytes())
    if column.is_text:
        items = [_encoded(column, item) for item in _flat(column, rows)]
        out.append(np.array([len(item) for item in items], "<u4").tobytes())
        return b"".join((*out, *items))
    out.extend(_numbers(column, v, (len(v), *column.row_shape)) for v in rows)
    return b"".join(out)


def _present(column: Column, values: Values) -> NDArray[np.bool_]:
    if not column.is_array:
        return np.array([v is not None for v in values], np.bool_)
    mask = np.ma.getmaskarray(np.ma.asarray(values)).reshape(len(values), column.n_items)
    null = mask.all(axis=1)
    if not np.array_equal(null, mask.any(axis=1)):
        raise FormatError(f"column {column.name} must have values that are null as a whole")
    return np.logical_not(null)


def _numbers(column: Column, values: Values, shape: tuple[int, ...]) -> bytes:
    """Return the bytes of numbers, which keep their values but for the rounding of floats."""
    try:
        given = np.asarray(values)
        if not given.size:  # an empty list is one of rows of any shape
            given = given.reshape(shape)
        with np.errstate(all="ignore"):
            stored = given.astype(column.item)
    except (TypeError, ValueError, OverflowError) as e:
        raise FormatError(f"column {column.name} must hold {column.dtype}: {e}") from e
    if given.shape != shape:
        raise FormatError(
            f"column {column.name} must have values of shape {shape}, got {given.shape}"
        )
    if given.dtype.kind == stored.dtype.kind == "f":
        kept = np.array_equal(np.isfinite(given), np.isfinite(stored))
    else:
        kept = np.array_equal(given, stored)
    if not kept:
        raise FormatError(f"column {column.name} must hold {column.dtype}, got other numbers")
    return stored.tobytes()


def _flat(column: Column, rows: list[Any]) -> list[Any]:
    """Return the items of text values, from nested lists, in C order."""
    items = rows
    for n in column.shape:
        for value in items:
            if not isinstance(value, list | tuple) or n not in {None, len(value)}:
                raise FormatError(
                    f"column {column.name} must have lists of shape {list(column.shape)}, "
                    f"got {value!r:.80}"
                )
        items = [*chain.from_iterable(items)]
    return items


def _blank(column: Column) -> object:
    blank: object = b"" if column.dtype == BYTES else ""
    for n in reversed(column.row_shape):
        blank = [blank] * n
    return blank


def _encoded(column: Column, item: object) -> bytes:
    if column.dtype == BYTES and isinstance(item, bytes):
        return item
    if column.dtype != BYTES and isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError:
            pass  # lone surrogates
    expected = "bytes" if column.dtype == BYTES else "Unicode text"
    raise FormatError(f"column {column.name} must hold {expected}, got {item!r:.80}")


def unpack_values(column: Column, raw: bytes, n: int, *, nulls: bool, where: str) -> Values:
    """Return the n values whose bytes these are.

    Raises:
        FormatError: The bytes do not add up, or are no text.
    """
    cursor = _Cursor(raw, where)
    present = None
    if nulls:
        bits = cursor.take("|u1", -(-n // 8))
        if n % 8 and int(bits[-1]) >> n % 8:
            raise FormatError(f"{where}: bits behind the last of {n} values must be 0")
        present = np.unpackbits(bits, count=n, bitorder="little").astype(np.bool_)
    if column.is_array:
        array = cursor.take(column.dtype, n * column.n_items).reshape((n, *column.row_shape))
        cursor.end()
        _check_bools(column, array, where)
        if present is None or present.all():
            return array
        if array[~present].any():
            raise FormatError(f"{where}: values that are null must be zeros")
        mask = np.broadcast_to(~present.reshape((n,) + (1,) * len(column.row_shape)), array.shape)
        return np.ma.MaskedArray(array, mask)
    counts = np.ones(n, np.int64)
    if column.is_ragged:
        counts = cursor.take("<u4", n).astype(np.int64)
        if n and int(counts.max()) > len(raw):  # a row has an item, and an item a byte or a length
            raise FormatError(f"{where} must have {counts.max()} rows, got {len(raw)} bytes")
    # Edges of values in items: rows of 2, 0 and 1 of 4 numbers each are 0, 8, 8, 12.
    edges = (np.concatenate(([0], np.cumsum(counts))) * column.n_items).tolist()
    items: Values
    if column.is_text:
        items = cursor.texts(edges[-1], as_bytes=column.dtype == BYTES)
    else:
        items = cursor.take(column.dtype, edges[-1])
        _check_bools(column, items, where)
    cursor.end()
    values = [_shaped(column, items, a, b) for a, b in pairwise(edges)]
    if present is not None:
        _check_blanks(column, counts, items, edges, ~present, where)
        values = [v if there else None for v, there in zip(values, present.tolist(), strict=True)]
    return values


def _shaped(column: Column, items: Values, start: int, stop: int) -> object:
    """Return items start..stop as one value."""
    if isinstance(items, np.ndarray):
        return items[start:stop].reshape((-1, *column.row_shape))
    if not column.shape:
        return items[start]
    value: list[Any] = items[start:stop]
    for n in reversed(column.row_shape if column.is_ragged else column.row_shape[1:]):
        value = [value[i : i + n] for i in range(0, len(value), n)]
    return value


def _check_bools(column: Column, array: NDArray[np.generic], where: str) -> None:
    if column.dtype == "|b1" and array.size and int(array.view(np.uint8).max()) > 1:
        raise FormatError(f"{where}: booleans must be 0 or 1")


def _check_blanks(
    column: Column,
    counts: NDArray[np.int64],
    items: Values,
    edges: list[int],
    null: NDArray[np.bool_],
    where: str,
) -> None:
    """Check that values that are null have no rows, or texts that are all empty."""
    if column.is_ragged:
        full = bool(counts[null].any())
    else:
        full = any(any(items[edges[i] : edges[i + 1]]) for i in np.flatnonzero(null).tolist())
    if full:
        raise FormatError(f"{where}: values that are null must be empty")


class _Cursor:
    """A place in the bytes of a page."""

    def __init__(self, raw: bytes, where: str) -> None:
        self._raw = raw
        self._where = where
        self._at = 0

    def take(self, dtype: str, n: int) -> NDArray[Any]:
        """Return the next n numbers."""
        size = n * np.dtype(dtype).itemsize
        if size > len(self._raw) - self._at:
            raise FormatError(
                f"{self._where} must have {size} bytes from byte {self._at}, "
                f"got {len(self._raw) - self._at}"
            )
        self._at += size
        return np.frombuffer(self._raw, dtype, n, self._at - size)

    def texts(self, n: int, *, as_bytes: bool) -> list[Any]:
        """Return the next n strings, whose lengths come first."""
        lengths = self.take("<u4", n)
        start, stop = self._at, self._at + int(lengths.sum(dtype=np.int64))
        if stop > len(self._raw):
            raise FormatError(f"{self._where} must have {stop} bytes, got {len(self._raw)}")
        self._at = stop
        # Not a list of edges: each would be an object, of more bytes than a short text has.
        edges = pairwise(accumulate(lengths.tolist(), initial=start))
        if as_bytes:
            return [self._raw[a:b] for a, b in edges]
        try:
            return [self._raw[a:b].decode() for a, b in edges]
        except UnicodeDecodeError as e:
            raise FormatError(f"{self._where} must be Unicode text in UTF-8: {e}") from e

    def end(self) -> None:
        """Make sure that no bytes are left."""
        if self._at != len(self._raw):
            raise FormatError(f"{self._where} must have {self._at} bytes, got {len(self._raw)}")
