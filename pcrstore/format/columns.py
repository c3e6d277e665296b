"""Columns: one fact about every image, as its type, its shape and its range.

Pure. FORMAT.md, sections 3.3 and 3.4, is the normative text.

    name          dtype   shape      an image's value
    label         <i4     []         7
    source_sha256 |u1     [32]       32 bytes
    boxes         <f4     [null, 4]  any number of rows of 4
    caption       utf8    []         text
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pcrstore.core import Stored, Word, refuse
from pcrstore.errors import FormatError, UnsupportedFormatError

__all__ = [
    "BYTES",
    "COLUMNS",
    "ENCODED",
    "FORMATS",
    "JPEG",
    "JSON",
    "MAX_KEY",
    "NO_LABEL",
    "NO_SPLIT",
    "OPAQUE",
    "UTF8",
    "Column",
    "ColumnName",
    "Ranges",
    "Shape",
    "Values",
]

UTF8: Final = "utf8"
JSON: Final = "json"
BYTES: Final = "bytes"
_TEXTS: Final = frozenset({UTF8, JSON, BYTES})
_NUMBERS: Final = frozenset(
    {"|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8"}
)
_MAX_ITEMS: Final = 65_536
"""Items of a value of fixed shape, or of one of its rows."""

MAX_KEY: Final = 1024
"""Bytes of a key: the limit of S3, Google Cloud Storage and Azure for the name of an object."""

Values = list[Any] | NDArray[np.generic]
"""A column's values. Numbers of fixed shape are an array, masked where values are null; others a
list of str, bytes, arrays (n, ...), or lists of str or bytes, with None for null."""

ColumnName = Annotated[str, Meta(min_length=1, max_length=256)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=_MAX_ITEMS)] | None, ...], Meta(max_length=8)]


class Column(Stored, frozen=True, kw_only=True):
    """A column of a dataset."""

    name: ColumnName
    dtype: Word
    """A NumPy type string of fixed size and byte order, `utf8`, `json` or `bytes`."""
    shape: Shape
    """Shape of one value; None in front: any number of rows."""

    @property
    def is_known(self) -> bool:
        """False for the type of a later version of the format."""
        return self.dtype in _TEXTS or self.dtype in _NUMBERS

    @property
    def is_text(self) -> bool:
        """True for items that have a length of their own: utf8, json and bytes."""
        return self.dtype in _TEXTS

    @property
    def is_ragged(self) -> bool:
        """True where values have any number of rows."""
        return self.shape[:1] == (None,)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The fixed part of the shape: of a value, or of one of its rows."""
        return tuple(n for n in self.shape if n is not None)

    @property
    def n_items(self) -> int:
        """Items of a value of fixed shape, or of one row."""
        return prod(self.row_shape)

    @property
    def item(self) -> np.dtype[np.generic]:
        """NumPy's type of an item, where that is a number."""
        return np.dtype(self.dtype)

    @property
    def is_array(self) -> bool:
        """True where values are an array: numbers of fixed shape."""
        return not self.is_text and not self.is_ragged

    def check(self, where: str) -> None:
        """Raise `FormatError` where the shape is none."""
        if None in self.shape[1:]:
            refuse(where, "shape", "null in front only", list(self.shape))
        if self.is_text and len(self.shape) > 1:  # lists of lists take 100 times their bytes
            refuse(where, "shape", f"of at most one item for {self.dtype}", list(self.shape))
        if self.n_items > _MAX_ITEMS:
            refuse(where, "shape", f"of at most {_MAX_ITEMS} items", list(self.shape))

    def require_known(self, where: str) -> None:
        """Raise `UnsupportedFormatError` for the type of a later version of the format."""
        if not self.is_known:
            raise UnsupportedFormatError(
                f"{where}: column {self.name} has the type {self.dtype!r}, which this pcrstore "
                "does not know; upgrade pcrstore"
            )


COLUMNS: Final = (
    Column(name="key", dtype=UTF8, shape=()),
    Column(name="label", dtype="<i4", shape=()),
    Column(name="split", dtype="|u1", shape=()),
    Column(name="format", dtype="|u1", shape=()),
    Column(name="orientation", dtype="|u1", shape=()),
    Column(name="width", dtype="<u4", shape=()),
    Column(name="height", dtype="<u4", shape=()),
    Column(name="source_bytes", dtype="<u8", shape=()),
    Column(name="source_sha256", dtype="|u1", shape=(32,)),
)
"""Known of every image, and never null; a dataset may have more columns, not fewer."""

JPEG: Final = 0
"""`format` of an image that was a JPEG and lost nothing."""
OPAQUE: Final = 1
"""`format` of a file kept whole in group 1."""
ENCODED: Final = 2
"""`format` of an image that was encoded to JPEG, with its source file in the restore region."""

FORMATS: Final = {JPEG: "jpeg", OPAQUE: "opaque", ENCODED: "encoded"}
"""Name of each `format`, as `Sample.format` says it."""

NO_LABEL: Final = -1
"""`label` of an image without a class."""
NO_SPLIT: Final = 255
"""`split` of an image without one."""

_MAX_SIDE: Final = 65_535


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of the columns that every dataset has; some depend on its classes and splits."""

    n_classes: int
    n_splits: int

    def _bounds(self) -> Mapping[str, tuple[int, int, int | None]]:
        """Return least and greatest value by column, and one more that is allowed."""
        return {
            "label": (NO_LABEL, self.n_classes - 1, None),
            "split": (0, self.n_splits - 1, NO_SPLIT),
            "orientation": (1, 8, None),
            "width": (0, _MAX_SIDE, None),
            "height": (0, _MAX_SIDE, None),
        }

    def check(self, name: str, values: Values, where: str) -> None:
        """Check values of a column, before anything is looked up by them.

        Raises:
            UnsupportedFormatError: An image format of a later version.
            FormatError: A value out of range; names the first.
        """
        if name == "key":
            self._check_keys(values, where)
            return
        if name == "format":
            new = np.flatnonzero(np.asarray(values) > max(FORMATS))
            if len(new):
                raise UnsupportedFormatError(
                    f"{where}: row {new[0]} has image format {values[int(new[0])]}, which this "
                    "pcrstore does not know; upgrade pcrstore"
                )
            return
        bounds = self._bounds().get(name)
        if bounds is None:
            return
        low, high, other = bounds
        numbers = np.asarray(values).astype(np.int64)
        bad = (numbers < low) | (numbers > high)
        if other is not None:
            bad &= numbers != other
        at = np.flatnonzero(bad)
        if len(at):
            expected = f"{low}..{high}" if high >= low else "no value"
            expected += "" if other is None else f" or {other}"
            raise FormatError(
                f"{where}: {name} of row {at[0]} must be {expected}, got {numbers[at[0]]}"
            )

    def _check_keys(self, keys: Values, where: str) -> None:
        for row, key in enumerate(keys):
            # A character has at most four bytes, so that few keys are encoded to be counted.
            if not key or (len(key) > MAX_KEY // 4 and len(key.encode()) > MAX_KEY):
                n = len(key.encode())
                raise FormatError(
                    f"{where}: key of row {row} must have 1 to {MAX_KEY} bytes, got {n}"
                )
