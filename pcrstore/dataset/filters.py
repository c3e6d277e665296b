"""Conditions on a column, and the images that meet them.

Pure: a column's values in, a mask out.

    label=["cat", 3] ──names to what is stored──▶ accepted values ──isin──▶ mask
    width=lambda w: w >= 224 ─────────────────────────────────────────────▶ mask
"""

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.errors import OptionError
from pcrstore.format import (
    BYTES,
    COLUMNS,
    FORMATS,
    JSON,
    NO_LABEL,
    NO_SPLIT,
    UTF8,
    Manifest,
    Values,
)

__all__ = ["Where", "conditions_of", "matching"]

Where = Mapping[str, object]
"""Conditions on columns by name, as `Dataset.find` takes them."""

_NONE: Final = {"label": NO_LABEL, "split": NO_SPLIT}
"""Stored value of an image without a label or a split."""

_NUMBER: Final = (int | float | np.integer | np.floating, "a number or the name of one")
_KINDS: Final = {UTF8: (str, "text"), JSON: (str, "JSON text"), BYTES: (bytes, "bytes")}
"""Python's type of a value, and what an error calls it, of the types that are no numbers."""

_SHOWN: Final = 80
"""Characters of a wrong value that a message repeats."""


def conditions_of(where: object) -> dict[str, object]:
    """Return conditions on columns as `Dataset.find` takes them.

    Args:
        where: A mapping of columns to conditions on them; None: no conditions.

    Raises:
        OptionError: Not a mapping, or not of names.
    """
    if where is None:
        return {}
    if not isinstance(where, Mapping):
        raise OptionError(
            'where must be a mapping of columns to what is wanted, such as {"split": "train"}, '
            f"got {repr(where)[:_SHOWN]}"
        )
    for name in where:
        if not isinstance(name, str):
            raise OptionError(f"where must name columns by text, got {repr(name)[:_SHOWN]}")
    return dict(where)


def matching(manifest: Manifest, name: str, values: Values, wanted: object) -> NDArray[np.bool_]:
    """Return a mask of the images whose value meets a condition; see `Dataset.find`.

    Args:
        manifest: Of the dataset: its columns, classes and splits.
        name: One of its columns.
        values: Of that column.
        wanted: A value, several of which one must match, or a function of `values`.

    Raises:
        OptionError: No such class, split or format, or a mask of another shape.
    """
    if not callable(wanted):
        return _among(values, _accepted(manifest, name, wanted))
    # Where a masked comparison has no answer, because the value is null, the answer is no.
    found = np.asarray(np.ma.filled(wanted(values), False))  # noqa: FBT003 - NumPy's
    if found.shape != (len(values),) or found.dtype != np.bool_:
        raise OptionError(
            f"{name}: the function must return {len(values)} booleans, "
            f"got {found.dtype} of shape {found.shape}"
        )
    return found


def _among(values: Values, accepted: Collection[object]) -> NDArray[np.bool_]:
    """Return a mask of the values that are among those accepted; None is null."""
    if isinstance(values, np.ndarray):
        mask = np.ma.getmaskarray(values)
        is_null = np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))
    else:
        is_null = np.array([v is None for v in values], np.bool_)
    sought = [v for v in accepted if v is not None]
    if not sought:
        return is_null if None in accepted else np.zeros_like(is_null)
    if isinstance(values, np.ndarray):
        return np.where(is_null, None in accepted, np.isin(np.ma.getdata(values), np.array(sought)))
    return np.array([v in accepted for v in values], np.bool_)


def _accepted(manifest: Manifest, name: str, wanted: object) -> set[object]:
    """Return the values of a column that meet a condition, as stored; None is null."""
    column = manifest.column(name)
    if column is None:
        raise AssertionError(name)
    if isinstance(wanted, np.ndarray):
        wanted = wanted.tolist()  # a single number of an array without dimensions
    if isinstance(wanted, Collection) and not isinstance(wanted, str | bytes | Mapping):
        given: list[object] = list(wanted)
    else:
        given = [wanted]
    names = _names(manifest).get(name)
    values = [_stored(name, w, names) for w in given]
    if column.shape and any(v is not None for v in values):
        shape = list(column.shape)
        raise OptionError(f"{name} has values of shape {shape}: give a function")
    kind, expected = _KINDS.get(column.dtype, _NUMBER)
    may_be_null = column not in COLUMNS
    wrong = [v for v in values if not (isinstance(v, kind) or (v is None and may_be_null))]
    if wrong:
        raise OptionError(f"{name} must be {expected}, got {wrong[0]!r}")
    return set(values)


def _names(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Return the stored id of each name, of the columns whose values have names."""
    return {
        "label": {name: i for i, name in enumerate(manifest.classes)},
        "split": {name: i for i, name in enumerate(manifest.splits)},
        "format": {name: i for i, name in FORMATS.items()},
    }


def _stored(column: str, wanted: object, names: Mapping[str, int] | None) -> object:
    """Return the stored value for one that may be given by name; None: no label or split."""
    if wanted is None and column in _NONE:
        return _NONE[column]
    if not isinstance(wanted, str) or names is None:
        return wanted
    if wanted not in names:
        raise OptionError(f"{column} must be one of {', '.join(names) or 'none'}, got {wanted!r}")
    return names[wanted]
