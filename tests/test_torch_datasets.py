"""Datasets for torch's own loaders: shared out among workers, resumed, read by any sampler."""

import copy
import pickle
import re
import threading
import warnings
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flows import dataset, write_tree
from small_datasets import kept_while_waiting

import pcrstore
from pcrstore import CenterCrop, Mixture, OptionError, RandomResizedCrop, UsageError
from pcrstore.feed import Feed

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402 - only where torch is installed
    DataLoader,
    DistributedSampler,
    WeightedRandomSampler,
)
from torch_data import FILES, OPTIONS, QUIET, LoggingStore, N, logged, samples, singles  # noqa: E402

from pcrstore.torch import IterableDataset, Loader, MapDataset  # noqa: E402 - as above

pytestmark = [
    *(pytest.mark.filterwarnings(w) for w in QUIET),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11 calls it
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    root = tmp_path_factory.mktemp("torch")
    pcrstore.convert(str(write_tree(root / "photos", FILES)), str(root / "ds"), OPTIONS, workers=1)
    return str(root / "ds")


def epoch_of(url, epoch=0, **options):
    """Return position -> (pixels, label) of an epoch, as `Loader` has it."""
    loader = Loader(url, 7, positions=True, **{"size": 16, **options})
    loader.set_epoch(epoch)
    return {position: (pixels, label) for position, pixels, label in samples(loader)}


def of_loader(url, epoch=0, **options):
    """Return (pixels, label) of the samples of an epoch, sorted."""
    return sorted(epoch_of(url, epoch, **options).values())


# ---- iterable


def test_a_single_sample_is_a_tensor_and_a_label(url):
    image, label = next(iter(IterableDataset(url, size=(8, 24))))
    assert image.shape == (3, 8, 24)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert type(label) is int


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_torchs_loader_reads_each_sample_once(url, num_workers, batch_size):
    ds = IterableDataset(url, size=16)
    loader = DataLoader(ds, batch_size, num_workers=num_workers)
    assert len(ds) == N
    got = singles(loader)
    assert sorted(got) == of_loader(url)
    if num_workers < 2:
        assert got == list(epoch_of(url).values())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_that_is_kept_keeps_its_pixels(url, num_workers):
    loader = DataLoader(IterableDataset(url, size=16), None, num_workers=num_workers)
    kept = [(image, label) for _ in range(3) for image, label in loader]
    got = sorted((image.numpy().tobytes(), int(label)) for image, label in kept)
    assert got == sorted(3 * of_loader(url))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_epoch_and_fidelity_reach_the_workers_that_there_are(url, num_workers, persistent):
    if persistent and not num_workers:
        return
    ds = IterableDataset(url, size=16, fidelity=1)
    loader = DataLoader(ds, 7, num_workers=num_workers, persistent_workers=persistent)
    assert sorted(singles(loader)) == of_loader(url, fidelity=1)
    assert sorted(singles(loader)) == of_loader(url, fidelity=1)
    for epoch, k in ((1, 1), (1, 5), (4, 2)):
        ds.set_epoch(epoch)
        ds.fidelity = k
        assert ds.fidelity == k
        assert sorted(singles(loader)) == of_loader(url, epoch, fidelity=k)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_read_shares_of_equal_size(url, world_size, num_workers):
    shares = [
        IterableDataset(url, size=16, rank=r, world_size=world_size) for r in range(world_size)
    ]
    got = [singles(DataLoader(ds, 7, num_workers=num_workers)) for ds in shares]
    n = -(-N // world_size)
    assert [len(ds) for ds in shares] == [len(of) for of in got] == [n] * world_size
    counts = Counter(sample for of in got for sample in of)
    assert sorted(counts) == of_loader(url)
    assert sum(counts.values()) - N == n * world_size - N


def test_a_transform_is_applied_to_each_image(url):
    for ds in (IterableDataset, MapDataset):
        images = [image for image, _ in DataLoader(ds(url, size=16, transform=mean), 8)]
        want = sorted(np.frombuffer(p, np.uint8).mean() for p, _ in of_loader(url, **MIDDLE[ds]))
        assert sorted(torch.cat(images).tolist()) == pytest.approx(want)


MIDDLE = {IterableDataset: {}, MapDataset: {"crop": CenterCrop(), "fidelity": "full"}}


def mean(image):
    """Return a number for an image."""
    assert image.dtype == torch.uint8
    return image.double().mean()


def test_going_on_with_an_older_iteration_is_an_error(url):
    ds = IterableDataset(url, 1, 8)
    older = iter(ds)
    for _ in range(5):
        next(older)
    never_begun = iter(ds)
    newest = iter(ds)
    next(newest)
    said = "another iteration of this dataset has begun: %d samples of this one are left"
    with pytest.raises(UsageError, match=said % (N - 5)):
        next(older)
    with pytest.raises(UsageError, match=said % N):
        next(never_begun)
    assert ds.state_dict()["batches"] == 1
    assert len(list(newest)) == N - 1
    assert list(newest) == []


def test_an_iteration_that_has_given_all_ends_as_others_do(url):
    ds = IterableDataset(url, 1, 8)
    older = iter(ds)
    for _ in range(N):
        next(older)
    next(iter(ds))
    assert list(older) == []


def test_the_epoch_is_the_one_of_when_the_first_sample_was_given(url):
    ds = IterableDataset(url, size=16)
    iterator = iter(ds)
    ds.set_epoch(1)
    assert ds.state_dict()["epoch"] == 1
    first = next(iterator)
    ds.set_epoch(5)
    assert ds.state_dict()["epoch"] == 1
    got = sorted((image.numpy().tobytes(), label) for image, label in [first, *iterator])
    assert got == of_loader(url, 1)
    assert ds.state_dict()["epoch"] == 1
    got = sorted((image.numpy().tobytes(), label) for image, label in ds)
    assert got == of_loader(url, 5)


def test_threads_that_others_stop_are_no_end_of_an_epoch(url):
    samples = iter(IterableDataset(url, size=16, n_threads=1))
    next(samples)
    Feed.close_all()
    with pytest.raises(UsageError, match=f"threads .* stopped: {N - 32} samples .* left"):
        list(samples)


def test_no_batch_is_kept_while_the_next_is_waited_for(url, monkeypatch):
    kept = kept_while_waiting(monkeypatch)
    assert len(list(IterableDataset(url, size=16))) == N
    assert kept == [False]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_loop_that_is_left_does_not_count_for_the_next(url, n):
    ds = IterableDataset(url, 1, 8)
    for i, _ in enumerate(ds):
        if i == n:
            break
    batches = iter(DataLoader(ds, 4))
    next(batches)
    assert ds.state_dict()["batches"] == 4
    del batches
    next(iter(ds))
    assert ds.state_dict()["batches"] == 1


# ---- iterable, resumed


@pytest.fixture
def stateful():
    return pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 3, 8])
def test_a_stateful_loader_goes_on_to_the_sample(url, stateful, num_workers, n):
    def loader(**options):
        return stateful(
            IterableDataset(url, size=16, **options), batch_size=4, num_workers=num_workers
        )

    first = loader()
    first.dataset.set_epoch(3)
    batches = iter(first)
    got = [next(batches) for _ in range(n)]
    state = first.state_dict()
    rest = singles(batches)
    want = singles(got) + rest
    assert sorted(want) == of_loader(url, 3)
    second = loader()
    second.dataset.set_epoch(3)
    second.load_state_dict(state)
    assert singles(got) + singles(second) == want
    second.dataset.set_epoch(4)
    assert sorted(singles(second)) == of_loader(url, 4)


def resumed(loader, state):
    loader.load_state_dict(state)
    return loader


def test_a_stateful_loader_of_other_data_is_refused(url, stateful):
    first = stateful(IterableDataset(url, size=16), batch_size=4)
    next(iter(first))
    other = stateful(IterableDataset(url, size=16, seed=1), batch_size=4)
    with pytest.raises(OptionError, match="seed"):
        singles(resumed(other, first.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_were_done_take_part_in_the_next_epoch(url, stateful, persistent):
    def loader():
        ds = IterableDataset(url, size=16, select=range(9))
        return stateful(ds, batch_size=2, num_workers=2, persistent_workers=persistent)

    first = loader()
    n_batches = len(list(first))
    for n in range(1, n_batches + 1):
        batches = iter(loader_before := loader())
        got = singles([next(batches) for _ in range(n)])
        second = resumed(loader(), loader_before.state_dict())
        rest = singles(second)
        del batches
        assert sorted(got + rest) == of_loader(url, select=range(9))
        second.dataset.set_epoch(1)
        assert sorted(singles(second)) == of_loader(url, 1, select=range(9))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_state_of_a_later_epoch_has_those_who_have_yielded_nothing(url, stateful, persistent):
    def loader():
        ds = IterableDataset(url, size=16)
        return stateful(ds, batch_size=4, num_workers=3, persistent_workers=persistent)

    first = loader()
    list(first)
    first.dataset.set_epoch(1)
    batches = iter(first)
    got = singles([next(batches)])
    rest = singles(resumed(loader(), first.state_dict()))  # which is not told the epoch
    assert sorted(got + rest) == of_loader(url, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_the_state_of_a_finished_epoch_comes_a_whole_one(url, stateful, num_workers):
    first = stateful(IterableDataset(url, size=16), batch_size=4, num_workers=num_workers)
    list(first)
    second = stateful(IterableDataset(url, size=16), batch_size=4, num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    second.dataset.set_epoch(1)
    assert sorted(singles(second)) == of_loader(url, 1)
    second.dataset.set_epoch(2)
    assert sorted(singles(second)) == of_loader(url, 2)


def test_a_dataset_has_a_state_of_its_own(url):
    ds = IterableDataset(url, size=16)
    ds.set_epoch(2)
    iterator = iter(ds)
    got = [next(iterator) for _ in range(11)]
    state = ds.state_dict()
    other = IterableDataset(url, size=16)
    other.load_state_dict(state)
    assert other.state_dict() == state
    rest = iter(other)
    assert other.state_dict() == state
    got += rest
    next(iterator)
    assert ds.state_dict() != state
    ds.load_state_dict(state)
    assert ds.state_dict() == state
    pixels = sorted((image.numpy().tobytes(), label) for image, label in got)
    assert pixels == of_loader(url, 2)
    other.set_epoch(3)
    pixels = sorted((image.numpy().tobytes(), label) for image, label in other)
    assert pixels == of_loader(url, 3)


def test_a_state_of_one_process_goes_on_on_two_ranks(url):
    ds = IterableDataset(url, size=16)
    iterator = iter(ds)
    got = [next(iterator) for _ in range(12)]
    for rank in range(2):
        other = IterableDataset(url, size=16, rank=rank, world_size=2)
        other.load_state_dict(ds.state_dict())
        got += other
    assert sorted((image.numpy().tobytes(), label) for image, label in got) == of_loader(url)


def test_a_state_of_several_workers_wants_as_many(url, stateful):
    first = stateful(IterableDataset(url, size=16), batch_size=4, num_workers=2)
    next(iter(first))
    [state] = {
        str(w["dataset_state"]): w["dataset_state"]
        for w in first.state_dict()["_snapshot"]["_worker_snapshots"].values()
        if w["dataset_state"]["worker"] == 0
    }.values()
    ds = IterableDataset(url, size=16)
    ds.load_state_dict(state)
    with pytest.raises(OptionError, match="2 workers"):
        next(iter(ds))


@pytest.mark.parametrize("worker", [0, 1])
def test_a_state_of_one_worker_is_not_for_the_others(url, monkeypatch, worker):
    # Not by processes: torch waits for seconds for the others where one of them raises.
    def is_worker(number):
        info = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: info)

    state = {**IterableDataset(url, 1, 8).state_dict(), "num_workers": 2, "worker": worker}
    ds = IterableDataset(url, 1, 8)
    ds.load_state_dict({**state, "batches": 9})
    is_worker(1 - worker)
    with pytest.raises(OptionError, match=f"of worker {worker} of 2, got worker {1 - worker}"):
        next(iter(ds))
    ds.load_state_dict({**state, "batches": 9})
    is_worker(worker)
    assert len(list(ds)) == N // 2 - 9


@pytest.mark.parametrize("num_workers", [1, 2])
def test_beside_workers_there_is_no_position_to_tell(url, num_workers):
    ds = IterableDataset(url, 1, 8)
    at_start = ds.state_dict()
    loader = DataLoader(ds, 4, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    for _ in range(2):
        with pytest.raises(UsageError, match="each has a position of its own"):
            ds.state_dict()
        list(batches)
    ds.load_state_dict(at_start)
    assert ds.state_dict() == at_start
    next(iter(ds))
    assert ds.state_dict()["batches"] == 1


# ---- map


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


@pytest.mark.parametrize("kind", [IterableDataset, MapDataset])
def test_wrong_options_are_named(url, kind):
    with pytest.raises(OptionError, match="epoch"):
        kind(url).set_epoch(-1)
    with pytest.raises(OptionError, match="size"):
        kind(url, size=0)
    with pytest.raises(pcrstore.FidelityError):
        kind(url, fidelity=99)
    ds = kind(url)
    with pytest.raises(pcrstore.FidelityError):
        ds.fidelity = 99
    assert ds.fidelity in (3, "full")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank and world_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"uneven": "wrap"}, "uneven"),
        ({"n_threads": 0}, "n_threads"),
    ],
)
def test_wrong_ranks_and_threads_are_named(url, options, said):
    with pytest.raises(OptionError, match=said):
        IterableDataset(url, **options)
    if "n_threads" in options:
        with pytest.raises(OptionError, match=said):
            MapDataset(url, **options)


def test_a_state_of_something_else_is_refused(url):
    ds = IterableDataset(url)
    for state in ({}, {"format": 2}, 5, {**ds.state_dict(), "epoch": -1}):
        with pytest.raises(OptionError):
            ds.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batches", value) for value in (None, -1, True, 1.0, "3", N + 1)),
        *(("worker", value) for value in (None, -1, True, "0", 1)),
        ("batch_size", 2),
        ("drop_last", True),
    ],
)
def test_a_state_that_was_spoilt_is_refused_when_it_is_loaded(url, name, value):
    ds = IterableDataset(url, 1, 8)
    state = ds.state_dict()
    without = {k: v for k, v in state.items() if k != name}
    for spoilt in (without, {**state, name: value}):
        with pytest.raises(OptionError, match=f"{name}.* of a state|must have .*{name}"):
            ds.load_state_dict(spoilt)
    assert len(list(ds)) == N


@pytest.mark.parametrize(("num_workers", "worker", "most"), [(1, 0, 40), (3, 0, 14), (3, 2, 13)])
def test_a_worker_has_yielded_no_more_than_its_share(url, num_workers, worker, most):
    ds = IterableDataset(url, 1, 8)
    state = {**ds.state_dict(), "num_workers": num_workers, "worker": worker}
    ds.load_state_dict({**state, "batches": most})
    with pytest.raises(OptionError, match=rf"batches of a state must be in 0\.\.{most}, got"):
        ds.load_state_dict({**state, "batches": most + 1})
    with pytest.raises(OptionError, match="worker of a state must be in"):
        ds.load_state_dict({**state, "worker": num_workers})


@pytest.mark.parametrize("kind", [IterableDataset, MapDataset])
@pytest.mark.parametrize("epoch", [1.0, "1", None, True])
def test_an_epoch_is_an_integer(url, kind, epoch):
    ds = kind(url, 1, 8)
    with pytest.raises(OptionError, match="epoch must be an integer"):
        ds.set_epoch(epoch)
    ds.set_epoch(np.int32(1))


def test_an_option_that_there_is_not_is_named(tmp_path):
    with pytest.raises(OptionError, match="IterableDataset has no option batch_size"):
        IterableDataset(tmp_path, batch_size=3)


def test_a_map_takes_what_means_something_to_it(tmp_path):
    with pytest.raises(OptionError, match="MapDataset has no option hedge"):
        MapDataset(tmp_path, hedge=True)
    with pytest.raises(OptionError, match="MapDataset reads one dataset"):
        MapDataset(pcrstore.Mix({"a": 1, "b": 1}))


def test_datasets_can_be_copied(url):
    for made in (IterableDataset(url, 1, 8), MapDataset(url, 1, 8)):
        made.set_epoch(2)
        again = copy.deepcopy(made)
        made.set_epoch(3)
        assert again._epoch.value == 2
        assert len(again) == N
        assert again.classes == made.classes


def test_a_copy_has_the_position_and_goes_its_own_way(url):
    ds = IterableDataset(url, 1, 8)
    samples = iter(ds)
    for _ in range(5):
        next(samples)
    again = copy.deepcopy(ds)
    assert again.state_dict() == ds.state_dict()
    next(iter(again))
    assert len(list(samples)) == N - 5


def test_another_epoch_drops_a_loaded_state(url):
    made = IterableDataset(url, 1, 8)
    rows = iter(made)
    for _ in range(5):
        next(rows)
    state = made.state_dict()
    other = IterableDataset(url, 1, 8)
    other.load_state_dict(state)
    other.set_epoch(0)
    assert len(list(other)) == N - 5
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"set_epoch\(1\) drops the position in epoch 0"):
        other.set_epoch(1)
    assert other.state_dict()["epoch"] == 1
    assert len(list(other)) == N
    with pytest.raises(OptionError, match="a state that counts samples expected, got 'batches'"):
        other.load_state_dict(Loader(url, fidelity=1).state_dict())


def test_a_position_is_lost_where_something_is_left_alone(url):
    ds = IterableDataset(url, 1, 8)
    list(ds)
    ended = ds.state_dict()
    other = IterableDataset(url, 1, 8)
    other.load_state_dict(ended)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.set_epoch(1)  # nothing was left
    other.load_state_dict({**ended, "batches": N - 1})
    assert len(singles(DataLoader(other, 4, num_workers=1))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.set_epoch(1)  # a worker went on from it
    assert len(singles(DataLoader(other, 4, num_workers=1))) == N
