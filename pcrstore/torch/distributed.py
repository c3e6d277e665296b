"""Rank of this process, and its share of the threads.

RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and MASTER_ADDR are read here and nowhere else.
"""

import multiprocessing
import os

from torch import distributed

from pcrstore.concurrency import usable_cores
from pcrstore.core import integer
from pcrstore.errors import OptionError
from pcrstore.loader import check_rank
from pcrstore.sampling import Topology

__all__ = ["local_world_size", "ranks", "start_method", "threads_of"]


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
