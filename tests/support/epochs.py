"""Epochs written out, the plainest way: what a reader makes of an order, one image at a time."""

from contextlib import contextmanager

import numpy as np
import pytest

from pcrstore.sampling import order as order_module
from pcrstore.sampling.order import EpochOrder

RECORD = 3
"""Images of a record. It divides few of the sizes used."""


@contextmanager
def shards_of(n):
    """Make canonical shards small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "SHARD_IMAGES", n)
        yield


def edges_of(n, block):
    """Return the edges of blocks of equal size, the last one smaller."""
    return np.array([*range(0, n, block), n], np.int64)


def an_order(*sizes, counts=None, block=10, shard=None, **more):
    """Return the order of an epoch of sources of some sizes."""
    options = {"seed": 0, "epoch": 0, "shuffle": True, "window": 4, **more}
    blocks = [n if isinstance(n, np.ndarray) else edges_of(n, block) for n in sizes]
    counts = [int(b[-1]) for b in blocks] if counts is None else counts
    with shards_of(shard or order_module.SHARD_IMAGES):
        return EpochOrder(blocks, counts, **options)


def records_of(run):
    """Return the numbers of the records of a run."""
    return np.arange(run.start // RECORD, -(-run.stop // RECORD))


def shard_order_of(order, shard):
    """Return the shard_order of a shard: (source, turn, image) of every position."""
    runs = order.runs(shard)
    records = [records_of(run) for run in runs]
    flat = [(run, int(n)) for run, of_run in zip(runs, records, strict=True) for n in of_run]
    shard_order = []
    for i in order.order_of_records(runs, records):
        run, n = flat[i]
        images = range(max(run.start, n * RECORD), min(run.stop, (n + 1) * RECORD))
        shard_order += [(run.source, run.turn, image) for image in images]
    return shard_order


def shard_orders_of(order):
    """Return the shard_orders of all shards."""
    return [shard_order_of(order, shard) for shard in range(order.n_shards)]


def read(order, shard_orders, slices):
    """Return the samples of slices in the order in which they are read."""
    return [shard_orders[s.shard][p] for s in slices for p in order.walk(s)]


def epoch_of(order):
    """Return the samples of an epoch in the order in which one reader reads them."""
    return read(order, shard_orders_of(order), order.all())
