"""Columns of every kind, with nulls, that some index parts lack."""

import numpy as np
import pytest
from rewritten import Draft
from small_datasets import PART, stored

from pcrstore.format.columns import Column

N = 20
"""Images: three parts of six and one of two, in pages of four."""
LACKING = {1}
"""Parts that have none of the columns."""


def _numbers(dtype, *shape):
    values = np.arange(N * int(np.prod(shape, dtype=int))).reshape(N, *shape) % 120
    return np.ma.MaskedArray(values.astype(dtype), np.zeros((N, *shape), np.bool_))


def _rows(dtype, *shape):
    return [np.full((i % 3, *shape), i, dtype) for i in range(N)]


VALUES = {
    "count": ("<u8", (), _numbers("<u8")),
    "flag": ("|b1", (), _numbers("|b1")),
    "score": ("<f4", (), _numbers("<f4")),
    "half": ("<f2", (2,), _numbers("<f2", 2)),
    "table": ("<i2", (3, 4), _numbers("<i2", 3, 4)),
    "boxes": ("<f4", (None, 4), _rows("<f4", 4)),
    "ids": ("<i8", (None,), _rows("<i8")),
    "caption": ("utf8", (), [f"caption \u00e9 {i}" for i in range(N)]),
    "tags": ("utf8", (None,), [[f"tag{j}" for j in range(i % 3)] for i in range(N)]),
    "names": ("utf8", (2,), [[f"a{i}", ""] for i in range(N)]),
    "note": ("json", (), [f'{{"n": {i}}}' for i in range(N)]),
    "blob": ("bytes", (), [bytes([i, 0, 255]) * (i % 3) for i in range(N)]),
}
"""Name -> type, shape, and a value for each image, of which every third becomes null."""


def null(i):
    """Say whether image `i` has no value in these columns."""
    return i % 3 == 0 or i // PART in LACKING


def plain(values):
    """A column's values in Python's types, None for null."""
    if not isinstance(values, np.ndarray):
        return [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
    rows = zip(np.ma.getdata(values).tolist(), np.ma.getmaskarray(values), strict=True)
    assert all(mask.all() == mask.any() for mask in np.ma.getmaskarray(values))
    return [None if mask.any() else row for row, mask in rows]


def expected(name):
    """The values of a column as `plain` gives them."""
    return [None if null(i) else v for i, v in enumerate(plain(VALUES[name][2]))]


def with_columns(layout="record"):
    """A dataset that has all of `VALUES`; name -> bytes."""
    draft = Draft.of(stored(layout, N))
    for name, (dtype, shape, values) in VALUES.items():
        column = Column(name=name, dtype=dtype, shape=shape)
        draft.add(column, values, lacking=LACKING)
        for i in range(0, N, 3):
            if i // PART not in LACKING:
                draft.set(name, i, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcrstore.format.index_pages._ROWS_PER_PAGE", 4)
        return draft.encode()
