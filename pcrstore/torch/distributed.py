"""Rank of this process, its share of the threads, and stores that workers can use after a fork.

RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and MASTER_ADDR are read here and nowhere else.
"""

import contextlib
import multiprocessing
import os
from functools import partial

from torch import distributed
from torch.utils import data as torch_data

from pcrstore.concurrency import usable_cores
from pcrstore.core import integer
from pcrstore.dataset import Dataset, dataset_in, open_dataset
from pcrstore.errors import MissingDependencyError, OptionError
from pcrstore.loader import Pipeline, Spec, check_rank, open_pipeline
from pcrstore.sampling import Topology
from pcrstore.storage import ForkingStore, ReadableStore

__all__ = ["load", "local_world_size", "ranks", "settle", "start_method", "threads_of"]


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: from the arguments, torch.distributed, or the environment."""
    if (rank is None) != (world_size is None):
        raise OptionError(f"rank and world_size come together, got {rank} and {world_size}")
    if rank is not None and world_size is not None:
        pass
    elif distributed.is_available() and distributed.is_initialized():
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
    else:
        rank, world_size = _variable("RANK", 0), _variable("WORLD_SIZE", 1)
    Topology(world_size=world_size)
    check_rank(rank, world_size)
    return rank, world_size


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise OptionError(f"the environment variable {name} must be a number, got {text!r}")
    return int(text)


def local_world_size(world_size: int) -> int:
    """Return the number of ranks on this host: as torchrun says, or all if the master is here."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return max(1, _variable("LOCAL_WORLD_SIZE", 1))
    on_this_host = os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1")
    return world_size if on_this_host else 1


def threads_of(n_threads: int | None, world_size: int, n_processes: int) -> int:
    """Return the number of decoding threads of a process: as asked for, or its share of cores."""
    if n_threads is not None:
        return integer(n_threads, "n_threads", least=1)
    return max(1, usable_cores() // local_world_size(world_size) // n_processes)


def start_method() -> str:
    """Return the start method of processes here, without making it the chosen one."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or multiprocessing.get_all_start_methods()[0]  # the first is the default


def settle(pipeline: Pipeline) -> None:
    """Let a process that is no worker, and so reads for itself, use the fast engine."""
    if torch_data.get_worker_info() is None:
        for source in pipeline.sample_set.sources:
            if isinstance(source.dataset.store, ForkingStore):
                source.dataset.store.use_engine()


def load(spec: Spec, *, start: str | None) -> Pipeline:
    """Open the pipeline of a loader whose workers start by a method; None: it has none."""
    return open_pipeline(spec, partial(_open_for_fork, spec) if start == "fork" else None)


def _open_for_fork(spec: Spec, url: str | os.PathLike[str] | ReadableStore) -> Dataset:
    """Open a URL without obstore, which forked children can use then."""
    if not isinstance(url, ReadableStore):
        # Without fsspec's driver there is the fast engine alone.
        with contextlib.suppress(MissingDependencyError):
            store = ForkingStore(url, spec.storage_options, engine=spec.engine)
            return dataset_in(store, version=spec.version)
    return open_dataset(url, spec.storage_options, version=spec.version, engine=spec.engine)
