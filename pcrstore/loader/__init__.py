"""Loader: batches of samples, read ahead, decoded in threads, resumable.

    options      options of all loaders: `Spec`, and typed dicts of those that few users need
    open         Spec ──open_pipeline──▶ Pipeline: opens datasets, selects images, mixes
    pipeline     what all processes of a loader share, and the connections of each
    prefetch     record reads of a stream, requested ahead and dropped after their last sample
    fetch_queue  a bounded queue of fetches, which hedges slow ones
    memory       memory of batches that is used again
    batches      one stream: prefetch ──▶ decoders ──▶ batches in order
    iterator     one iteration of a loop, which ends or is cut off
    cursor       which epoch is next, and where in it: a table of transitions; pure
    state        a position as JSON, and back
    base         `BaseLoader`: cursor, iterations, counters
    numpy_loader `NumpyLoader`: a `BaseLoader` of NumPy arrays; that of tensors is in pcrstore.torch
    limits       bounds of a stream, with the measurements behind them; pure
    stats        counters that add up; pure

One stream, of a rank or of one of its workers:

    shard slices ──SampleSet──▶ record reads ──FetchQueue──▶ files ──decoders──▶ batches ──▶ loop
                                     ▲ ahead by `prefetch` bytes        ▲ ahead by 4 batches

Guarantees:

- Batches come in the order of `pcrstore.sampling`, however many threads fetch and decode.
- Memory is bounded, whatever the consumer does: window of the shuffle, bytes ahead, batches ready.
- An error is raised in the loop, at the batch that it belongs to; no thread outlives its iteration.
- The state counts the batches that the loop was given, not those read ahead.

A loop over two epochs, and one that goes on from a state:

    loader = NumpyLoader("photos-pcr", batch_size=64)    # 1,000 images: 16 batches, the last of 40
    for epoch in range(2):
        loader.set_epoch(epoch)
        for i, (images, labels) in enumerate(loader):    # uint8 (64, 224, 224, 3), int64 (64,)
            if (epoch, i) == (1, 4):
                state = loader.state_dict()              # epoch 1, 5 batches
    resumed = NumpyLoader("photos-pcr", batch_size=64)
    resumed.load_state_dict(state)
    len(resumed), resumed.n_left                         # (16, 11)
"""

from pcrstore.loader.base import BaseLoader, LoaderProperties, check_rank
from pcrstore.loader.batches import Batch
from pcrstore.loader.cursor import EpochCursor, Position, Status
from pcrstore.loader.memory import BatchMemory
from pcrstore.loader.numpy_loader import NumpyLoader
from pcrstore.loader.open import open_pipeline
from pcrstore.loader.options import (
    Data,
    LoaderOptions,
    OnError,
    Opaque,
    SampleOptions,
    Spec,
    check_options,
)
from pcrstore.loader.pipeline import Pipeline
from pcrstore.loader.state import SAMPLES, LoaderState, dump_state, parse_state
from pcrstore.loader.stats import Signals

__all__ = [
    "SAMPLES",
    "BaseLoader",
    "Batch",
    "BatchMemory",
    "Data",
    "EpochCursor",
    "LoaderOptions",
    "LoaderProperties",
    "LoaderState",
    "NumpyLoader",
    "OnError",
    "Opaque",
    "Pipeline",
    "Position",
    "SampleOptions",
    "Signals",
    "Spec",
    "Status",
    "check_options",
    "check_rank",
    "dump_state",
    "open_pipeline",
    "parse_state",
]
