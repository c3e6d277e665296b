"""The images of a dataset that a loader reads: positions given, and conditions on columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcrstore.dataset import Dataset
from pcrstore.errors import OptionError

__all__ = ["SelectedDataset", "Selection", "select_images"]

Selection = Sequence[int] | NDArray[np.integer]
"""Positions of images in a dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedDataset:
    """A dataset, and the images of it that are read."""

    dataset: Dataset
    positions: NDArray[np.int64] | None = None
    """Ascending positions in the dataset; None: all."""

    def __len__(self) -> int:
        return len(self.dataset) if self.positions is None else len(self.positions)

    def blocks(self) -> NDArray[np.int64]:
        """Return the edges of index parts among the selected images, from 0 to their number.

        With parts of 6 images of which 6, 7 and 19 of 20 are selected, the edges are 0, 2 and 3.
        """
        edges = self.dataset.index.image_edges
        if self.positions is not None:
            edges = np.searchsorted(self.positions, edges).astype(np.int64)
        return np.unique(edges)

    def images(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions in the dataset of selected images start..stop."""
        if self.positions is None:
            return np.arange(start, stop)
        return self.positions[start:stop]


def select_images(
    dataset: Dataset, selection: Selection | None, conditions: Mapping[str, object]
) -> SelectedDataset:
    """Return the images of a dataset at some positions that meet conditions.

    Args:
        dataset: Dataset to select from.
        selection: Positions in any order; None: all.
        conditions: Column -> value or values, as `Dataset.find`.

    Raises:
        OptionError: The selection is not positions in the dataset, or names one twice.
        FormatError: Index parts of the images are missing.
    """
    found = None if selection is None else _positions(selection, len(dataset))
    if conditions:
        matching = dataset.find(**conditions)
        found = matching if found is None else np.intersect1d(found, matching)
    is_all = found is None or len(found) == len(dataset)
    if is_all:  # the loader allocates by their number: batches, ranks, workers
        dataset.index.require_backed(len(dataset))
    return SelectedDataset(dataset=dataset, positions=None if is_all else found)


def _positions(selection: Selection, n: int) -> NDArray[np.int64]:
    """Return positions in 0..n, ascending."""
    try:
        given = np.asarray(selection)
    except ValueError as e:
        kind = type(selection).__name__
        raise OptionError(f"select must be positions, got {kind}: {e}") from e
    if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise OptionError(
            f"select must be positions, got {given.dtype} of shape {given.shape}; of a mask "
            "take numpy.flatnonzero"
        )
    found = np.unique(given.astype(np.int64))
    if len(found) != len(given):
        raise OptionError(f"select must name no image twice, got {len(given) - len(found)}")
    if len(found) and not (found[0] >= 0 and found[-1] < n):
        raise OptionError(f"select must be in 0..{n - 1}, got {found[0]}..{found[-1]}")
    return found
