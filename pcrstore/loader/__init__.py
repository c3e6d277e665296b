"""The loader wing."""

from pcrstore.loader.base import BaseLoader, Dialled, check_rank
from pcrstore.loader.batches import Batch
from pcrstore.loader.memory import BatchMemory
from pcrstore.loader.numpy_loader import NumpyLoader
from pcrstore.loader.pipeline import (
    Data,
    MoreOptions,
    OnError,
    Opaque,
    Pipeline,
    Selection,
    Spec,
    Where,
    check_options,
)
from pcrstore.loader.state import SAMPLES, resume, written
from pcrstore.loader.stats import Signals

__all__ = [
    "SAMPLES",
    "BaseLoader",
    "Batch",
    "BatchMemory",
    "Data",
    "Dialled",
    "MoreOptions",
    "NumpyLoader",
    "OnError",
    "Opaque",
    "Pipeline",
    "Selection",
    "Signals",
    "Spec",
    "Where",
    "check_options",
    "check_rank",
    "resume",
    "written",
]
