"""Random access for torch's samplers: any sample, as the loader has it."""

import pickle
import re
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from flows import dataset, write_tree

import pcrstore
from pcrstore import CenterCrop, Mixture, OptionError, RandomResizedCrop

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402 - only where torch is installed
    DataLoader,
    DistributedSampler,
    WeightedRandomSampler,
)
from torch_data import (  # noqa: E402 - as above
    FILES,
    OPTIONS,
    QUIET,
    LoggingStore,
    N,
    converted,
    epoch_of,
    logged,
    of_loader,
    singles,
)

from pcrstore.torch import MapDataset  # noqa: E402 - as above

pytestmark = [pytest.mark.filterwarnings(w) for w in QUIET]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    return converted(tmp_path_factory.mktemp("torch"))


def test_any_sample_by_its_position(url):
    ds = MapDataset(url, size=16)
    want = epoch_of(url, crop=CenterCrop(), fidelity="full")
    assert len(ds) == N
    for i in (0, 1, N - 1, -1, -N):
        image, label = ds[i]
        assert (image.shape, image.dtype) == ((3, 16, 16), torch.uint8)
        assert (image.contiguous().numpy().tobytes(), label) == want[i % N]
    for i in (N, -N - 1):
        with pytest.raises(IndexError, match=str(N - 1)):
            ds[i]
    assert ds.__getitems__([]) == []
    got = ds.__getitems__([5, 5, 2, -1])
    assert [(i.contiguous().numpy().tobytes(), y) for i, y in got] == [
        want[j] for j in (5, 5, 2, 39)
    ]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_crops_are_those_of_the_loader(url, n_threads):
    crop = RandomResizedCrop()
    for epoch in (0, 3):
        ds = MapDataset(url, 2, 16, crop=crop, seed=5, n_threads=n_threads)
        ds.set_epoch(epoch)
        want = epoch_of(url, epoch, crop=crop, seed=5, fidelity=2)
        got = singles(DataLoader(ds, 9))
        assert got == [want[i] for i in range(N)]


@pytest.mark.parametrize("per", ["record", "sample"])
def test_a_mixture_is_drawn_as_the_loader_draws_it(url, per):
    mixture = Mixture({1: 1, 5: 1}, per=per)
    options = {"crop": CenterCrop(), "seed": 3}
    got = singles(DataLoader(MapDataset(url, mixture, 16, **options), 8))
    want = epoch_of(url, fidelity=mixture, **options)
    assert got == [want[i] for i in range(N)]
    low, high = (epoch_of(url, fidelity=k, **options) for k in (1, 5))
    assert 0 < sum(got[i] == low[i] != high[i] for i in range(N)) < N


def test_positions_are_those_of_the_selection(url):
    chosen = pcrstore.open(url).find(label="cat")
    want = epoch_of(url, crop=CenterCrop(), fidelity="full")
    ds = MapDataset(url, size=16, where={"label": "cat"})
    assert len(ds) == len(chosen) < N
    assert singles(DataLoader(ds, 8)) == [want[i] for i in chosen.tolist()]


@pytest.mark.parametrize("more", [{}, {"where": {"label": "cat"}}])
@pytest.mark.parametrize(
    "given", [[5, 2, 9, 30, 11], range(N - 1, -1, -1), np.array([7], np.uint8)]
)
def test_a_selection_keeps_its_order(url, given, more):
    cats = set(pcrstore.open(url).find(label="cat").tolist())
    ds = MapDataset(url, size=16, select=given, **more)
    want = epoch_of(url, crop=CenterCrop(), fidelity="full")
    expected = [int(i) for i in given if not more or int(i) in cats]
    assert len(ds) == len(expected)
    assert singles(DataLoader(ds, 8)) == [want[i] for i in expected]


@pytest.mark.parametrize(
    ("index", "error"),
    [
        *((i, TypeError) for i in (1.9, 1.0, np.float64(1), "a", None, slice(3), float("nan"))),
        *((i, TypeError) for i in ([], [1], np.array([1, 2]))),
        *((i, IndexError) for i in (10**30, -(10**30), N, -N - 1)),
    ],
)
def test_an_index_is_what_a_list_takes(url, index, error):
    ds = MapDataset(url, 1, 8)
    for call in (ds.__getitem__, lambda i: ds.__getitems__([0, i])):
        with pytest.raises(error, match=f"index must be .*, got {re.escape(repr(index))}"):
            call(index)
    for same in (3, np.uint8(3), torch.tensor(3), np.int64(3 - N)):
        assert torch.equal(ds[same][0], ds[3][0])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, n_threads):
    photos = write_tree(tmp_path / "photos", {**FILES, "zz/broken.jpg": b"hello" * 40})
    pcrstore.convert(
        str(photos), str(tmp_path / "ds"), replace(OPTIONS, policy="opaque"), workers=1
    )
    ds = MapDataset(tmp_path / "ds", size=16, n_threads=n_threads)
    [bad] = pcrstore.open(tmp_path / "ds").find(format="opaque").tolist()
    for call in (lambda: ds[bad], lambda: ds.__getitems__([0, bad, 1])):
        with pytest.raises(pcrstore.DecodeError, match=rf"ds.*: image {bad}: Pillow cannot"):
            call()
    with pytest.raises(pcrstore.DecodeError, match=f": image {bad}: "):
        MapDataset(tmp_path / "ds", size=16, select=[3, bad])[1]


def test_threads_stay_from_batch_to_batch(url):
    def decoding():
        return {t for t in threading.enumerate() if t.name.startswith("pcrstore-map")}

    before = decoding()
    ds = MapDataset(url, size=16, n_threads=2)
    ds.__getitems__(range(9))
    first = decoding() - before
    assert len(first) == 2
    for _ in range(3):
        ds.__getitems__(range(9))
    assert decoding() - before == first
    other = pickle.loads(pickle.dumps(ds))  # noqa: S301 - our own bytes
    assert torch.equal(other.__getitems__(range(9))[8][0], ds[8][0])
    want = singles(DataLoader(ds, 9))
    # A child that is forked has none of its parent's threads.
    assert singles(DataLoader(ds, 9, num_workers=2, multiprocessing_context="fork")) == want
    del ds, other
    for thread in first:
        thread.join(5)
    assert not first & decoding()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_distributed_sampler_shares_it_out(url, num_workers):
    ds = MapDataset(url, size=16)
    got = []
    for rank in range(2):
        sampler = DistributedSampler(ds, 2, rank, seed=4)
        sampler.set_epoch(1)
        got.append(singles(DataLoader(ds, 7, sampler=sampler, num_workers=num_workers)))
    assert [len(of) for of in got] == [N // 2, N // 2]
    assert sorted(got[0] + got[1]) == of_loader(url, crop=CenterCrop(), fidelity="full")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_weighted_sampler_repeats_samples(url, num_workers):
    ds = MapDataset(url, size=16)
    weights = [1.0 if i < 3 else 0.0 for i in range(N)]
    sampler = WeightedRandomSampler(weights, 50, generator=torch.Generator().manual_seed(0))
    got = Counter(singles(DataLoader(ds, 10, sampler=sampler, num_workers=num_workers)))
    want = epoch_of(url, crop=CenterCrop(), fidelity="full")
    assert set(got) == {want[0], want[1], want[2]}
    assert sum(got.values()) == 50


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_read_by_one_plan(url, tmp_path, num_workers):
    log = tmp_path / "log"
    ds = dataset(LoggingStore(url.removeprefix("file://"), log))
    images = [5, 31, 0, 4, 30, 17]
    want = ds.plan(images, "full")
    loader = DataLoader(MapDataset(ds, size=16), batch_sampler=[images], num_workers=num_workers)
    log.unlink(missing_ok=True)
    assert len(singles(loader)) == len(images)
    reads = [n for _, name, n in logged(log) if name.startswith("objects/")]
    assert len(reads) == want.n_requests < len(images)
    assert sum(reads) == want.n_bytes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_and_fidelity_reach_the_workers_of_a_map(url, num_workers):
    ds = MapDataset(url, 1, 16, crop=RandomResizedCrop())
    loader = DataLoader(ds, 7, num_workers=num_workers, persistent_workers=num_workers > 0)
    for epoch, k in ((0, 1), (1, 1), (1, 5), (4, "full")):
        ds.set_epoch(epoch)
        ds.fidelity = k
        assert ds.fidelity == k
        want = epoch_of(url, epoch, fidelity=k)
        assert singles(loader) == [want[i] for i in range(N)]


def test_a_map_takes_what_means_something_to_it(tmp_path):
    with pytest.raises(OptionError, match="MapDataset has no option hedge"):
        MapDataset(tmp_path, hedge=True)
    with pytest.raises(OptionError, match="MapDataset reads one dataset"):
        MapDataset(pcrstore.Mix({"a": 1, "b": 1}))
