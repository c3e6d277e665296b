"""Several datasets read as one by weight; for several fidelities of one, see `Mixture`.

    Mix({a: 3, b: 1}) of 20 and 12 images ──▶ an epoch of 32 samples: 24 of a, 8 of b

An epoch that reads 24 of 20 images reads four of them twice; one that reads 8 of 12 leaves four for
the next epoch (see `pcrstore.sampling.order`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pcrstore.core import integer, real
from pcrstore.dataset import Dataset
from pcrstore.errors import OptionError
from pcrstore.storage import ReadableStore

__all__ = ["Mix", "counts_of", "mix_of", "same_classes"]

_MOST_SAMPLES: Final = 2**40
"""Most samples of an epoch of a mix. An epoch is held as one slice for every 2^18 of them."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Several datasets read as one by weight; for several fidelities of one, see `Mixture`.

    An epoch has as many samples as the datasets have images together, or `epoch_size`; a dataset
    with more than its share is read on in the next epoch, one with less is read again.

    Raises:
        OptionError: On construction: `weights` is not a mapping of URLs or datasets to numbers
            over 0, or `epoch_size` is not a positive integer.
    """

    weights: Mapping[str | os.PathLike[str] | ReadableStore | Dataset, float] = field(repr=False)
    """URLs, stores or open datasets, and their shares relative to each other."""
    epoch_size: int | None = None

    def __post_init__(self) -> None:
        given: object = self.weights
        if not isinstance(given, Mapping):
            kind = type(given).__name__
            raise OptionError(f"a mix must be a mapping of datasets to weights, got a {kind}")
        if not self.weights:
            raise OptionError("a mix must have at least one dataset, got none")
        for data in self.weights:
            _check_data(data)
        if not all(0 < real(w, "a weight") < float("inf") for w in self.weights.values()):
            raise OptionError(f"weights must be over 0, got {list(self.weights.values())}")
        if self.epoch_size is not None:
            size = integer(self.epoch_size, "epoch_size", least=1, most=_MOST_SAMPLES)
            object.__setattr__(self, "epoch_size", size)


def _check_data(data: object) -> None:
    # The error names the type alone, because a URL may have a password in it.
    if not isinstance(data, str | os.PathLike | Dataset | ReadableStore):
        kind = type(data).__name__
        raise OptionError(
            f"a dataset must be a URL, a path, a store or an open dataset, got a {kind}"
        )


def mix_of(data: str | os.PathLike[str] | ReadableStore | Dataset | Mix) -> Mix:
    """Return a mix as it is, and for a URL, a path or an open dataset a mix of that alone.

    Raises:
        OptionError: `data` is something else.
    """
    if isinstance(data, Mix):
        return data
    _check_data(data)  # before `Mix` hashes it, which a list would refuse with a `TypeError`
    return Mix({data: 1.0})


def same_classes(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Return the class names of datasets whose labels mean the same.

    Raises:
        OptionError: A label is one class in one dataset and another class in another.
    """
    longest = max(datasets, key=lambda ds: len(ds.classes))
    for ds in datasets:
        for label, (name, other) in enumerate(zip(ds.classes, longest.classes, strict=False)):
            if name != other:
                raise OptionError(
                    f"datasets of a mix must number their classes alike: label {label} is "
                    f"{name!r} in {ds.url} and {other!r} in {longest.url}; convert with --classes"
                )
    return longest.classes


def counts_of(mix: Mix, sizes: Sequence[int]) -> list[int]:
    """Return the samples of each dataset in an epoch.

    Args:
        mix: Weights of the datasets.
        sizes: Selected images of each dataset.

    Raises:
        OptionError: The weights leave a dataset without any sample.

    >>> counts_of(Mix({"a": 3, "b": 1}), [20, 12])
    [24, 8]
    """
    if len(sizes) == 1 and mix.epoch_size is None:
        return list(sizes)
    total = mix.epoch_size or sum(sizes)
    weights = np.array(list(mix.weights.values()), np.float64)
    # Edges are rounded, not counts, so that the counts add up to the total: weights 1, 1, 1 of 8
    # samples have the edges 2.67, 5.33 and 8, and the counts 3, 2 and 3.
    edges = np.round(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    counts: list[int] = np.diff(edges, prepend=0).tolist()
    if 0 in counts:
        raise OptionError(f"an epoch of {total} samples has none of a dataset: {counts}")
    return counts
