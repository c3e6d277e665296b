"""Opening a dataset: find a version, read its manifest, and nothing else."""

import os
from collections.abc import Mapping

import fsspec

from pcrstore.core import integer
from pcrstore.cost import DEFAULT_COST, CostModel
from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.versions import newest_version, read_manifest
from pcrstore.errors import NotFoundError
from pcrstore.format import MAX_VERSION
from pcrstore.storage import Engine, ReadableStore, open_store

__all__ = ["dataset_in", "open_dataset"]


def open_dataset(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, object] | None = None,
    *,
    version: int | None = None,
    engine: Engine = "auto",
    filesystem: fsspec.AbstractFileSystem | None = None,
    cost: CostModel = DEFAULT_COST,
) -> Dataset:
    """Open a dataset by reading its manifest alone: one LIST and one GET.

    Args:
        url: `s3://`, `gs://`, `az://`, `https://`, `file://`, `memory://`, any fsspec URL, a path.
        storage_options: As for fsspec.
        version: An older version; None: the newest.
        engine: `obstore`, `fsspec`, or `auto`: obstore where it understands every option.
        filesystem: Use this fsspec instance; `url` is then a path in it.
        cost: Prices and link; decides which ranges are read together.

    Raises:
        NotFoundError: There is no dataset, or no such version.
        FormatError: The manifest is damaged.
        UnsupportedFormatError: Written by a newer pcrstore.
        StoreError: The store cannot be reached.
    """
    store = open_store(url, storage_options, engine=engine, filesystem=filesystem)
    return dataset_in(store, version=version, cost=cost)


def dataset_in(
    store: ReadableStore, *, version: int | None = None, cost: CostModel = DEFAULT_COST
) -> Dataset:
    """Open the dataset of a store; see `open_dataset`."""
    if version is None:
        version = newest_version(store)
        if version == 0:
            raise NotFoundError(f"{store.url}: no pcrstore dataset there (it has no manifest)")
        return Dataset(store, read_manifest(store, version), cost)
    version = integer(version, "version", least=1, most=MAX_VERSION)
    try:
        return Dataset(store, read_manifest(store, version), cost)
    except NotFoundError:
        found = newest_version(store)
        raise NotFoundError(
            f"{store.url}: no version {version} there; the newest is {found or 'none'}"
        ) from None
