"""Epochs written out, the plainest way: what a reader makes of an order, one image at a time."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import strategies as st

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


@st.composite
def orders(draw, *, counts=False):
    """Draw orders of small epochs, with small shards."""
    edges = st.lists(st.integers(0, 13), min_size=1, max_size=6).map(
        lambda sizes: np.cumsum([0, *sizes])
    )
    blocks = draw(st.lists(edges, min_size=1, max_size=3 if counts else 1))
    return an_order(
        *blocks,
        counts=[draw(st.integers(0, 60)) if counts and b[-1] else int(b[-1]) for b in blocks],
        seed=draw(st.integers(0, 3)),
        epoch=draw(st.integers(0, 3)),
        shuffle=draw(st.booleans()),
        window=draw(st.sampled_from([1, 2, 5, 16, 1000])),
        shard=draw(st.integers(1, 50)),
    )


@st.composite
def stopped_orders(draw):
    """Draw an order and slices that it was stopped at."""
    order = draw(orders(counts=True))
    out = []
    for whole in order.all():
        edges = sorted(draw(st.lists(st.integers(0, whole.stop), max_size=4)))
        for start, stop in pairwise([0, *edges, whole.stop]):
            codes = [0, *order.codes(whole.shard, start, stop).tolist()]
            after = draw(st.sampled_from(codes)) + draw(st.sampled_from([0, 0, 1]))
            out.append(replace(whole, start=start, stop=stop, after=after))
    return order, out


def left_of(order, shard_slice):
    """Return what `order.left` should, read off the definition."""
    codes = order.codes(shard_slice.shard, shard_slice.start, shard_slice.stop).tolist()
    at = enumerate(codes, start=shard_slice.start)
    return [position for position, code in at if code >= shard_slice.after]


def walk_of(order, shard_slice):
    """Return what `order.walk` should, read off the definition."""
    codes = order.codes(shard_slice.shard, shard_slice.start, shard_slice.stop).tolist()
    by_code = sorted(left_of(order, shard_slice), key=lambda p: codes[p - shard_slice.start])
    return [(shard_slice.shard, p) for p in by_code]


def flat(order, slices):
    """Return what is left of slices along the shard_order, as (shard, position)."""
    return [(s.shard, p) for s in slices for p in left_of(order, s)]
