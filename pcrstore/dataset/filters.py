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
from pcrstore.format import FORMATS, NO_LABEL, NO_SPLIT, Manifest, Values

__all__ = ["Where", "conditions_of", "matching"]

Where = Mapping[str, object]
"""Conditions on columns by name, as `Dataset.find` takes them."""

_NONE: Final = {"label": NO_LABEL, "split": NO_SPLIT}
"""Stored value of an image without a label or a split."""

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
        return np.isin(np.asarray(values), _accepted(manifest, name, wanted))
    found = np.asarray(wanted(values))
    if found.shape != (len(values),) or found.dtype != np.bool_:
        raise OptionError(
            f"{name}: the function must return {len(values)} booleans, "
            f"got {found.dtype} of shape {found.shape}"
        )
    return found


def _accepted(manifest: Manifest, name: str, wanted: object) -> NDArray[np.generic]:
    """Return the values of a column that meet a condition, as stored."""
    column = next(c for c in manifest.columns if c.name == name)
    if column.width > 1:
        raise OptionError(f"{name} has {column.width} values an image: give a function")
    if isinstance(wanted, np.ndarray):
        wanted = wanted.tolist()  # a single number of an array without dimensions
    if isinstance(wanted, Collection) and not isinstance(wanted, str | bytes | Mapping):
        given: list[object] = list(wanted)
    else:
        given = [wanted]
    names = _names(manifest).get(name)
    values = [_stored(name, w, names) for w in given]
    text = column.row_dtype is None
    kind = str if text else int | float | np.integer | np.floating
    wrong = [v for v in values if not isinstance(v, kind)]
    if wrong:
        expected = "text" if text else "a number or the name of one"
        raise OptionError(f"{name} must be {expected}, got {wrong[0]!r}")
    return np.array(values, np.str_ if text else None)


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
