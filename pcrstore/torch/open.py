"""The stores of a loader in a process whose workers may be forked.

obstore hangs in a child of a process that has used it. So a process that may fork workers opens its
datasets through a `ForkingStore`, which reads metadata by fsspec and leaves obstore to the workers.
A process that turns out to read for itself calls `use_chosen_engine`, and has obstore from then on.
"""

import contextlib
import os
from functools import partial

from torch.utils import data as torch_data

from pcrstore.dataset import Dataset, dataset_in, open_dataset
from pcrstore.errors import MissingDependencyError
from pcrstore.loader import Pipeline, Spec, open_pipeline
from pcrstore.storage import ForkingStore, ReadableStore

__all__ = ["open_for_workers", "use_chosen_engine"]


def use_chosen_engine(pipeline: Pipeline) -> None:
    """Let a process that is no worker, and so reads for itself, use the engine of its options."""
    if torch_data.get_worker_info() is None:
        for source in pipeline.sample_set.sources:
            if isinstance(source.dataset.store, ForkingStore):
                source.dataset.store.use_engine()


def open_for_workers(spec: Spec, *, start: str | None) -> Pipeline:
    """Open the pipeline of a loader whose workers start by a method; None: it has no workers."""
    return open_pipeline(spec, partial(_open_for_fork, spec) if start == "fork" else None)


def _open_for_fork(spec: Spec, url: str | os.PathLike[str] | ReadableStore) -> Dataset:
    """Open a URL without obstore, which forked children can use then."""
    if not isinstance(url, ReadableStore):
        # Without fsspec's driver there is the fast engine alone.
        with contextlib.suppress(MissingDependencyError):
            store = ForkingStore(url, spec.storage_options, engine=spec.engine)
            return dataset_in(store, version=spec.version)
    return open_dataset(url, spec.storage_options, version=spec.version, engine=spec.engine)
