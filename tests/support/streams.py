"""Streams of small datasets, and what they hold and ask for."""

import gc
from types import FunctionType, ModuleType

import numpy as np

from pcrstore.loader.limits import StreamLimits
from pcrstore.loader.open import open_pipeline
from pcrstore.loader.options import Spec
from pcrstore.sampling.sharding import Topology

SIZE = 8
N = 20
"""Images of a dataset, unless a test says otherwise."""
G = 5


LIMITS = StreamLimits()
SMALL_TASKS = StreamLimits(task_bytes=1)
"""Every record is requested by itself."""


class Streamed:
    """A stream of a dataset, and all that it is made of."""

    def __init__(
        self,
        dataset,
        *,
        batch=4,
        n_threads=2,
        rank=0,
        world=1,
        epoch=0,
        uneven="pad",
        limits=LIMITS,
        **spec,
    ):
        spec = {"size": SIZE, "shuffle_window": 4, **spec}
        self.pipeline = open_pipeline(Spec(dataset=dataset, **spec), limits=limits)
        topology = Topology(world_size=world, batch_size=batch, uneven=uneven)
        self.partition = self.pipeline.partition(epoch, None, topology)
        self.allocated = []
        self.slices = self.partition.share(rank, 0)
        self.stream = self.pipeline.stream_share(
            self.partition, rank=rank, worker=0, n_threads=n_threads, allocate=self.allocate
        )

    def allocate(self, n):
        self.allocated.append(n)
        return np.empty((n, SIZE, SIZE, 3), np.uint8), len(self.allocated)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def read_lists(self):
        return [self.pipeline.sample_set.read_list(self.partition.order, s) for s in self.slices]

    def reads(self):
        """(first use, estimated bytes) of all reads of the stream, in order."""
        out, base = [], 0
        for read_list in self.read_lists():
            for u in read_list.reads:
                n_bytes = round(self.pipeline.shared_fidelity.mean_bytes(u.source) * len(u.images))
                out.append((base + u.first_use, n_bytes))
            base += len(read_list)
        return out


def samples(batches):
    return [
        (int(s), int(i))
        for b in batches
        for s, i in zip(b.samples.sources, b.samples.positions, strict=True)
    ]


def reachable(start, seen):
    """Everything that an object holds and that was not seen before."""
    todo = [start]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen[id(one)] = one
        yield one
        todo += gc.get_referents(one)


def held_bytes(streamed):
    """Bytes of bodies and files that a stream holds beside what its datasets do."""
    seen = {}
    list(reachable(streamed.pipeline, seen))
    return sum(
        len(x) for x in reachable(streamed.stream._prefetcher._open, seen) if isinstance(x, bytes)
    )


def read_into(got, stream):
    """Note the positions that a stream yields, up to its error."""
    for batch in stream:
        got += batch.samples.positions.tolist()


def prefixes(ds, k):
    """The ranges of every record at fidelity k, sorted: what an epoch asks for, and no more."""
    ranges = []
    for p, entry in enumerate(ds.manifest.parts):
        [part] = ds.index.parts([p])
        for r in range(entry.n_records):
            ranges += part.placement(r).prefix(k)
    return sorted((r.name, r.start, r.stop) for r in ranges if len(r))
