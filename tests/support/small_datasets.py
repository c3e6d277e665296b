"""Tiny stored datasets that loaders are tested on, and stores that misbehave.

Images are a few dozen pixels a side, records have three of them, index parts six.
"""

import threading
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import ref

import numpy as np
import pytest
from flows import DictStore, convert_to, photo, png, write_tree

from pcrstore.conversion.options import Options
from pcrstore.cost.model import DEFAULT_COST, CostModel, Link, Prices
from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.versions import newest_version, read_manifest
from pcrstore.loader.batches import BatchStream
from pcrstore.loader.memory import BatchMemory
from pcrstore.storage.protocol import ReadableStore
from pcrstore.testing import RecordingStore

RECORD, PART = 3, 6
"""Images of a record, and of an index part."""

NO_GAPS = CostModel(
    prices=Prices(name="none", per_get=0.0, per_byte=1.0, source="test"),
    link=Link(bandwidth=1e6, per_connection=1e6, latency=0.0, concurrency=1),
    per_second=0.0,
)
"""A request costs nothing, so that no byte is read that was not asked for."""


def parts_of(monkeypatch, n):
    """Make conversions write index parts of at most `n` images."""
    most = np.array((n, 2**24, 32_768))
    monkeypatch.setattr("pcrstore.conversion.manifest_builder._MAX_PART", most)


def files(n, *, opaque=(), text=(), seed=0):
    """Key -> file of `n` images: two splits, two classes; some PNGs, some no image at all."""
    out = {}
    for i in range(n):
        split, label = ("train", "val")[i % 3 == 0], ("dog", "cat")[i % 2]
        name = f"{split}/{label}/{i:03d}"
        size = (40 + 8 * (i % 3), 48 + 8 * (i % 2))
        if i in text:
            out[f"{name}.jpg"] = b"text %d" % i
        elif i in opaque:
            out[f"{name}.png"] = png(1000 + i + seed)
        else:
            out[f"{name}.jpg"] = photo(i + seed, mode="L" if i % 7 == 3 else "RGB", size=size)
    return out


@cache
def stored(layout="record", n=20, *, opaque=(), text=(), seed=0, script="sa5"):
    """The objects of a dataset of `n` images in stored order that is the order of their keys."""
    options = Options(
        layout=layout,
        script=script,
        record_images=RECORD,
        object_bytes=6000,
        chunk_bytes=1500,
        policy="opaque",
        split_dirs=True,
        shuffle=False,
    )
    store = DictStore()
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        parts_of(patch, PART)
        patch.setattr("pcrstore.format.index_pages._ROWS_PER_PAGE", 4)
        tree = write_tree(Path(folder), files(n, opaque=opaque, text=text, seed=seed))
        convert_to(store, tree, options)
    return store.objects


def opened(store, cost=DEFAULT_COST):
    """The dataset of a store."""
    return Dataset(store, read_manifest(store, newest_version(store)), cost)


def recorded(layout="record", n=20, *, cost=NO_GAPS, **more):
    """A dataset whose requests are written down, and its store."""
    store = RecordingStore(DictStore(stored(layout, n, **more)))
    ds = opened(store, cost)
    store.clear()
    return ds, store


def a_dataset(layout="record", n=20, **more):
    """A dataset in memory."""
    return recorded(layout, n, **more)[0]


def of_images(store):
    """The (name, start, stop) of every read that was not of the index, sorted."""
    return sorted(
        (r.name, r.start, r.stop)
        for r in store.named("get_range")
        if not r.name.startswith("index/")
    )


class PassingStore(ReadableStore):
    """Passes everything on; a subclass does something about `get_ranges`."""

    url = ""

    def __init__(self, store):
        self.store = store
        self.url = store.url
        self._lock = threading.Lock()

    def get(self, name, *, max_bytes):
        return self.store.get(name, max_bytes=max_bytes)

    def list(self, prefix):
        return self.store.list(prefix)


class GatedStore(PassingStore):
    """Answers reads of images only while the gate is open; counts what waits before it."""

    def __init__(self, store):
        super().__init__(store)
        self.gate = threading.Event()
        self.gate.set()
        self.asked_bytes = 0
        self.n_asked = 0

    def get_ranges(self, ranges):
        if any(not r.name.startswith("index/") for r in ranges):
            with self._lock:
                self.asked_bytes += sum(map(len, ranges))
                self.n_asked += len(ranges)
            if not self.gate.wait(30):
                raise AssertionError("a gate was never opened")
        return self.store.get_ranges(ranges)


def threads():
    """The threads of loaders that are alive."""
    return [t for t in threading.enumerate() if t.name.startswith("pcrstore-")]


def until(condition, seconds=10.0):
    """Wait until a condition holds; say whether it came to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def images_of(batches):
    """Positions that batches of a loader with positions=True hold, in order."""
    return [int(i) for *_, positions in batches for i in np.asarray(positions)]


def kept_while_waiting(monkeypatch):
    """Return a list that says whether the first batch is kept while the second is waited for."""
    taken, kept, n_waits = [], [], []
    take, wait = BatchMemory.take, BatchStream._take

    def taking(memory, n):
        array = take(memory, n)
        taken.append(ref(array))
        return array

    def waiting(stream):
        n_waits.append(1)
        if len(n_waits) == 2:  # decoders let go a moment after it is done
            kept.append(not until(lambda: taken[0]() is None, 2))
        return wait(stream)

    monkeypatch.setattr(BatchMemory, "take", taking)
    monkeypatch.setattr(BatchStream, "_take", waiting)
    return kept
