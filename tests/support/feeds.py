"""Feeds of small datasets, and what they hold and ask for."""

import gc
from types import FunctionType, ModuleType

import numpy as np

from pcrstore.loader.pipeline import Pipeline, Spec
from pcrstore.sampling.sharding import Topology

SIZE = 8
N = 20
"""Images of a dataset, unless a test says otherwise."""
G = 5


class Fed:
    """A feed of a dataset, and all that it is made of."""

    def __init__(
        self, dataset, *, batch=4, n_threads=2, rank=0, world=1, epoch=0, uneven="pad", **spec
    ):
        spec = {"size": SIZE, "shuffle_window": 4, **spec}
        self.loading = Pipeline(Spec(dataset=dataset, **spec))
        topology = Topology(world_size=world, batch_size=batch, uneven=uneven)
        self.leg = self.loading.leg(epoch, None, topology)
        self.allocated = []
        self.stretches = self.leg.share(rank, 0)
        self.feed = self.loading.feed(
            self.leg, epoch, rank=rank, worker=0, n_threads=n_threads, allocate=self.allocate
        )

    def allocate(self, n):
        self.allocated.append(n)
        return np.empty((n, SIZE, SIZE, 3), np.uint8), len(self.allocated)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.feed.close()

    def leaflets(self):
        return [self.loading.population.leaflet(self.leg.order, s) for s in self.stretches]

    def units(self):
        """(first use, estimated bytes) of all units of the stream, in order."""
        out, base = [], 0
        for leaflet in self.leaflets():
            for u in leaflet.units:
                n_bytes = round(self.loading.dial.mean_bytes(u.source) * len(u.images))
                out.append((base + u.first_use, n_bytes))
            base += len(leaflet)
        return out


def samples(batches):
    return [(int(s), int(i)) for b in batches for s, i in zip(b.sources, b.positions, strict=True)]


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


def held_bytes(fed):
    """Bytes of bodies and files that a feed holds beside what its datasets do."""
    seen = {}
    list(reachable(fed.loading, seen))
    return sum(len(x) for x in reachable(fed.feed._prefetcher._lanes, seen) if isinstance(x, bytes))


def read_into(got, feed):
    """Note the positions that a feed yields, up to its error."""
    for batch in feed:
        got += batch.positions.tolist()


def prefixes(ds, k):
    """The ranges of every record at fidelity k, sorted: what an epoch asks for, and no more."""
    ranges = []
    for p, entry in enumerate(ds.manifest.parts):
        [part] = ds.index.parts([p])
        for r in range(entry.n_records):
            ranges += part.placement(r, ds.manifest.chunk_bytes).prefix(k)
    return sorted((r.name, r.start, r.stop) for r in ranges if len(r))
