"""The loader for PyTorch: the same batches from threads and processes, on any number of ranks."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from inspect import signature
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from weakref import ref

import pytest
from flows import dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import kept_while_waiting, threads, until
from tqdm import TMonitor, tqdm

import pcrstore
from pcrstore import (
    ChecksumError,
    NumpyLoader,
    OptionError,
    UsageError,
    WorkerDiedError,
)
from pcrstore.image.crops import CenterCrop
from pcrstore.loader.options import Spec
from pcrstore.loader.stats import Signals

torch = pytest.importorskip("torch")

from torch_data import QUIET, LoggingStore, N, converted, logged, samples  # noqa: E402

from pcrstore.torch import Loader  # noqa: E402 - only where torch is installed

pytestmark = [pytest.mark.filterwarnings(w) for w in QUIET]

SMALL = {"size": 16, "positions": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    return Path(converted(tmp_path_factory.mktemp("torch")))


@pytest.fixture(scope="module")
def url(folder):
    return str(folder)


@pytest.fixture
def recorded(folder, tmp_path):
    """A dataset whose reads are written down, and what was."""
    return dataset(LoggingStore(str(folder), tmp_path / "log")), tmp_path / "log"


def of_numpy(url, epoch=0, **options):
    """Return the samples of an epoch as the NumPy loader has them, in order."""
    loader = NumpyLoader(url, size=16, positions=True, **options)
    loader.set_epoch(epoch)
    return [
        (position, image.transpose(2, 0, 1).tobytes(), label)
        for images, labels, positions in loader
        for image, label, position in zip(images, labels.tolist(), positions.tolist(), strict=True)
    ]


# ---- what a batch is


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("size", "shape"), [(16, (3, 16, 16)), ((8, 24), (3, 8, 24)), (1, (3, 1, 1))]
)
def test_a_batch_is_two_tensors(url, num_workers, size, shape):
    batches = list(Loader(url, 16, size=size, num_workers=num_workers))
    assert [len(images) for images, _ in batches] == [16, 16, 8]
    for images, labels in batches:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == shape
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert labels.shape == (len(images),)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": False},
        {"fidelity": 1, "seed": 5},
        {"fidelity": pcrstore.Mixture({1: 1, 5: 1}, per="sample"), "crop": CenterCrop()},
        {"where": {"label": "cat"}},
        {"select": range(3, 20), "apply_orientation": True},
    ],
    ids=["default", "stored order", "fidelity", "mixture", "where", "select"],
)
def test_pixels_and_labels_are_those_of_the_numpy_loader(url, num_workers, options):
    loader = Loader(url, 7, num_workers=num_workers, **SMALL, **options)
    for epoch in range(2):
        want = of_numpy(url, epoch, **options)
        got = samples(loader)
        if num_workers < 2:
            assert got == want
        assert sorted(got) == sorted(want)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("drop_last", [False, True])
def test_workers_take_turns_each_in_the_order_of_its_share(url, num_workers, drop_last):
    loader = Loader(url, 7, num_workers=num_workers, drop_last=drop_last, **SMALL)
    n_workers = max(1, num_workers)
    rank, topology = loader._topology()
    partition = loader._pipeline.partition(0, None, topology)
    shares = []
    for worker in range(n_workers):
        slices = partition.share(rank, worker)
        read_lists = [loader._pipeline.sample_set.read_list(partition.order, s) for s in slices]
        line = list(chain.from_iterable(read_list.image.tolist() for read_list in read_lists))
        shares.append([line[i : i + 7] for i in range(0, len(line), 7)])
    got = [positions.tolist() for *_, positions in loader]
    assert got == [shares[n % n_workers][n // n_workers] for n in range(len(loader))]
    assert len(got) == (5 if drop_last else 6)


def test_a_batch_that_is_kept_keeps_its_pixels(url):
    for num_workers in (0, 2):
        loader = Loader(url, 4, num_workers=num_workers, **SMALL)
        kept = [list(loader), list(loader)]
        for epoch, batches in enumerate(kept):
            again = Loader(url, 4, num_workers=0, **SMALL)
            again.set_epoch(epoch)
            assert sorted(samples(batches)) == sorted(samples(again))


# ---- epochs, positions, ranks


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_iteration_reads_the_next_epoch_or_the_one_that_is_set(url, num_workers):
    wanted = [sorted(of_numpy(url, epoch)) for epoch in range(4)]
    assert wanted[0] != wanted[1]
    loader = Loader(url, 7, num_workers=num_workers, **SMALL)
    pids = set()
    for epoch in (0, 1, 3, 2, 3):
        if epoch != loader.epoch:
            loader.set_epoch(epoch)
        assert sorted(samples(loader)) == wanted[epoch]
        pids.add(tuple(worker_pids(loader)))
    assert len(pids) == 1  # the workers stayed


def worker_pids(loader):
    """Return the processes that work for a loader."""
    if loader._pool is None:
        return []
    return [w.pid for w in loader._pool.batches._iterator._workers]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_after_a_break_the_next_iteration_reads_the_next_epoch(url, num_workers, n):
    loader = Loader(url, 7, num_workers=num_workers, **SMALL)
    for i, _ in enumerate(loader, 1):
        if i == n:
            break
    assert loader.epoch == 1
    other = Loader(url, 7, **SMALL)
    for epoch in (1, 2):
        other.set_epoch(epoch)
        assert sorted(samples(loader)) == sorted(samples(other))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iterator_is_cut_off_when_the_next_one_begins(url, num_workers):
    loader = Loader(url, 4, num_workers=num_workers, **SMALL)
    first = iter(loader)
    next(first)
    second = iter(loader)
    got = [next(second)]
    with pytest.raises(UsageError, match=r"another iteration .* begun: 9 batches .* left"):
        next(first)
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (1, 1)
    got += second
    assert sorted(p for p, *_ in samples(got)) == list(range(N))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_epoch_is_settled_and_reading_begins_with_the_iteration(recorded, num_workers):
    ds, log = recorded
    loader = Loader(ds, 7, num_workers=num_workers, **SMALL)
    for epoch in (0, 4):
        log.unlink(missing_ok=True)
        batches = iter(loader)
        loader.set_epoch(4)
        assert until(lambda: logged(log))
        assert sorted(samples(batches)) == sorted(of_numpy(ds, epoch))


@pytest.mark.parametrize("n", [None, 0, 1])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_closed_loader_has_no_workers_and_can_be_iterated_again(url, num_workers, n):
    loader = Loader(url, 7, num_workers=num_workers, **SMALL)
    loader.close()
    with loader:
        batches = iter(loader)
        got = [batch for _, batch in zip(range(100 if n is None else n), batches, strict=False)]
        pids = worker_pids(loader)
        assert len(pids) == num_workers
    assert until(lambda: not any(map(alive, pids)) and not threads())
    loader.close()
    with nullcontext() if n is None else pytest.raises(UsageError, match="this loader was closed"):
        assert list(batches) == []
    assert loader.stats().samples == len(samples(got))
    epoch = 0 if n == 0 else 1  # one that has yielded nothing does not count
    assert loader.epoch == epoch
    assert sorted(samples(loader)) == sorted(of_numpy(url, epoch))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_loaders_run_at_once(url, num_workers):
    one = Loader(url, 7, num_workers=num_workers, **SMALL)
    two = Loader(url, 7, num_workers=num_workers, seed=9, shuffle=False, **SMALL)
    both = list(zip(one, two, strict=True))
    assert sorted(samples(a for a, _ in both)) == sorted(of_numpy(url))
    assert sorted(p for p, *_ in samples(b for _, b in both)) == list(range(N))


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (3, 0), (8, 0), (3, 2)])
@pytest.mark.parametrize("uneven", ["pad", "drop"])
def test_ranks_share_an_epoch_in_as_many_batches(url, world_size, uneven, num_workers):
    loaders = [
        Loader(
            url, 7, rank=r, world_size=world_size, uneven=uneven, num_workers=num_workers, **SMALL
        )
        for r in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    assert {len(b) for b in batches} == {len(loaders[0])}
    counts = Counter(p for b in batches for p, *_ in samples(b))
    assert sum(counts.values()) == N + loaders[0].n_padded - loaders[0].n_dropped
    assert loaders[0].n_padded + loaders[0].n_dropped < world_size
    assert len(counts) == N - loaders[0].n_dropped
    assert {x.n_padded for x in loaders} == {loaders[0].n_padded}


class Job:
    """A training job that is stopped and begun again: what it read, and what it may read twice."""

    def __init__(self, ds, **options):
        self.ds = ds
        self.options = {**SMALL, "shuffle_window": 5, "n_threads": 1, **options}
        self.state = None
        self.seen = Counter()
        self.n_padded = 0
        self.n_dropped = 0
        self.pick = random.Random(0)  # noqa: S311 - which rank is asked

    def run(self, world_size, num_workers, batch_size, n_batches=None):
        """Take some batches on every rank, or all that are left."""
        states = []
        for rank in range(world_size):
            loader = Loader(
                self.ds,
                batch_size,
                num_workers=num_workers,
                rank=rank,
                world_size=world_size,
                **self.options,
            )
            if self.state is not None:
                loader.load_state_dict(self.state)
                if loader.epoch == 1:  # all is read
                    return
            total = loader.n_left
            taken = total if n_batches is None else min(n_batches, total)
            padded, dropped = loader.n_padded, loader.n_dropped
            iterator = iter(loader)
            got = [next(iterator) for _ in range(taken)]
            if n_batches is None:
                assert list(iterator) == []
            states.append(loader.state_dict())
            iterator.close()
            self.seen.update(p for p, *_ in samples(got))
        assert all(s == states[0] for s in states)
        self.state = self.pick.choice(states)
        self.n_padded += padded
        self.n_dropped += dropped if 0 < taken == total else 0  # not where stopped

    def check(self, n):
        """Check that an epoch of n samples was read, but for padding and what is left out."""
        twice = sum(self.seen.values()) - len(self.seen)
        assert twice <= self.n_padded
        assert len(self.seen) == n - self.n_dropped


LEGS = st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(1, 9), st.integers(0, 4))


@settings(max_examples=30, deadline=None)
@given(st.lists(LEGS, min_size=1, max_size=3), st.sampled_from(["pad", "drop"]))
def test_an_epoch_that_is_stopped_anywhere_is_read_once(url, partitions, uneven):
    ds = pcrstore.open(url)
    job = Job(ds, select=range(23), uneven=uneven)
    for world_size, batch_size, n_batches in partitions:
        job.run(world_size, 0, batch_size, n_batches)
    job.run(1, 0, 4)
    job.check(23)


TRANSITIONS = {
    "threads to processes": [(1, 0, 5, 3), (1, 4, 3, None)],
    "processes to threads": [(1, 4, 3, 5), (1, 0, 5, None)],
    "fewer processes": [(2, 4, 2, 2), (2, 1, 7, None)],
    "more ranks": [(1, 4, 3, 4), (3, 1, 4, None)],
    "fewer ranks": [(3, 1, 2, 3), (1, 4, 4, None)],
    "many ranks": [(2, 1, 3, 2), (8, 0, 2, 1), (1, 1, 4, None)],
    "twice": [(1, 4, 3, 1), (2, 1, 3, 2), (3, 0, 2, None)],
    "at the first batch": [(2, 1, 4, 0), (1, 2, 4, None)],
}


@pytest.mark.parametrize("partitions", TRANSITIONS.values(), ids=TRANSITIONS)
@pytest.mark.parametrize("uneven", ["pad", "drop"])
def test_a_state_goes_on_with_any_number_of_processes_and_ranks(url, partitions, uneven):
    job = Job(pcrstore.open(url), uneven=uneven)
    for partition in partitions:
        job.run(*partition)
    job.check(N)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_a_resumed_epoch_comes_a_whole_one(url, num_workers):
    loader = Loader(url, 7, num_workers=num_workers, **SMALL)
    loader.set_epoch(3)
    first = [batch for _, batch in zip(range(2), loader, strict=False)]
    state = loader.state_dict()
    for resumed in (loader, Loader(url, 7, num_workers=num_workers, **SMALL)):
        resumed.load_state_dict(state)
        assert resumed.epoch == 3
        rest = list(resumed)
        assert sorted(p for p, *_ in samples(first + rest)) == list(range(N))
        assert resumed.epoch == 4
        assert sorted(p for p, *_ in samples(resumed)) == list(range(N))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_random_numbers_of_the_training_do_not_depend_on_workers(url, num_workers):
    def drawn(n):
        torch.manual_seed(3)
        for _ in range(2):
            list(loader := Loader(url, 7, num_workers=n, **SMALL))
            list(loader)
        return torch.rand(4).tolist()

    assert drawn(num_workers) == drawn(0)


# ---- what runs while it runs


def at_fidelity(url, k, epoch, **options):
    """Return the samples of an epoch at a fidelity."""
    loader = Loader(url, 7, fidelity=k, **SMALL, **options)
    loader.set_epoch(epoch)
    return sorted(samples(loader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_fidelity_reaches_the_workers_that_there_are(url, num_workers):
    loader = Loader(url, 7, fidelity=1, num_workers=num_workers, **SMALL)
    seen = []
    for epoch, k in enumerate((1, 5, 2)):
        loader.fidelity = k
        assert loader.fidelity == k
        got = sorted(samples(loader))
        assert got == at_fidelity(url, k, epoch)
        seen.append(got)
        assert got != at_fidelity(url, 3, epoch)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_fidelity_counts_from_the_next_request_on(url, num_workers):
    options = {"shuffle_window": 1, "prefetch": 1}
    loader = Loader(url, 1, fidelity=1, num_workers=num_workers, **options, **SMALL)
    got = []
    for n, batch in enumerate(loader):
        got += samples([batch])
        if n == 3:
            loader.fidelity = 5
    low, high = (set(at_fidelity(url, k, 0, **options)) for k in (1, 5))
    is_high = [sample in high - low for sample in got]
    first = is_high.index(True)
    assert 3 < first < 30
    assert all(is_high[first:])
    assert set(got[:first]) <= low


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_stats_are_what_was_read(recorded, num_workers):
    ds, log = recorded
    loader = Loader(ds, 7, num_workers=num_workers, **SMALL)
    log.unlink(missing_ok=True)
    start = time.perf_counter()
    for epoch in (1, 2, 3):
        before = loader.stats()
        for n, _ in enumerate(loader, 1):
            stats = loader.stats()
            assert stats.batches == 6 * (epoch - 1) + n
            assert stats.samples == N * (epoch - 1) + min(N, 7 * n)
            assert 0 <= stats.queue_depth <= 5 * max(1, num_workers)
        stats = loader.stats()
        reads = logged(log)
        assert (stats.samples, stats.batches) == (N * epoch, 6 * epoch)
        assert stats.bytes == sum(n for *_, n in reads)
        assert stats.requests == len(reads)
        assert 0 < stats.stall_seconds <= stats.seconds <= time.perf_counter() - start
        assert stats.decode_seconds > before.decode_seconds
        assert stats.fetch_seconds > before.fetch_seconds
        assert stats.queue_depth == 0
    pids = {pid for pid, *_ in reads}
    assert pids == {os.getpid()} if num_workers == 0 else len(pids) == num_workers


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_stats_count_what_was_read_for_nothing(recorded, num_workers):
    ds, log = recorded
    loader = Loader(ds, 2, num_workers=num_workers, **SMALL)
    log.unlink(missing_ok=True)
    states = []
    for n in (1, 7, 20):
        for _ in zip(range(n), loader, strict=False):
            pass
        states.append(loader.state_dict())
    loader.load_state_dict(states[1])  # other workers read what is left of an epoch
    assert len(list(loader)) == 13
    stats, reads = loader.stats(), logged(log)
    assert (stats.batches, stats.samples) == (41, 82)
    assert stats.bytes == sum(n for *_, n in reads)
    assert stats.requests == len(reads)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_progress_is_one_line_on_stderr(url, num_workers, capfd):
    for _ in Loader(url, 7, size=16, num_workers=num_workers, progress=True):
        pass
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "6/6" in err
    assert "GETs" in err
    assert "images/s" in err
    for _ in Loader(url, 7, size=16, num_workers=num_workers):
        pass
    assert capfd.readouterr() == ("", "")


def monitors():
    """The threads that watch bars; one that tqdm has started stays."""
    return [t for t in threading.enumerate() if isinstance(t, TMonitor)]


@pytest.fixture
def unwatched():
    """Let no thread watch bars that other tests have shown."""
    if tqdm.monitor is not None:
        tqdm.monitor.exit()
        tqdm.monitor = None
    assert until(lambda: not monitors())


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_thread_watches_a_bar_only_where_there_is_one(url, num_workers):
    for progress in (False, True):
        list(Loader(url, 7, size=16, num_workers=num_workers, progress=progress))
        assert len(monitors()) == progress


@pytest.mark.usefixtures("unwatched")
def test_no_thread_watches_a_bar_that_nobody_can_ask_for(tmp_path):
    url = converted(tmp_path)
    list(NumpyLoader(url, 7, size=16))
    pcrstore.export(pcrstore.open(url), str(tmp_path / "out"))
    assert monitors() == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_is_not_pinned_without_a_gpu_and_a_warning_says_so(url, num_workers):
    with pytest.warns(UserWarning, match="pin_memory") as caught:
        got = samples(Loader(url, 7, num_workers=num_workers, pin_memory=True, **SMALL))
    assert len(caught) == 1
    assert sorted(got) == sorted(of_numpy(url))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_workers": -1}, "num_workers"),
        ({"num_workers": True}, "num_workers"),
        ({"num_workers": 1.0}, "num_workers"),
        ({"n_threads": 0}, "n_threads"),
        ({"n_threads": "2"}, "n_threads"),
        ({"size": (64,)}, "size"),
        ({"crop": "center"}, "crop"),
        ({"rank": 0}, "rank and world_size"),
        ({"world_size": 2}, "rank and world_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"rank": -1, "world_size": 2}, "rank"),
        ({"rank": 0, "world_size": 0}, "world_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"uneven": "wrap"}, "uneven"),
        ({"num_workers": 1, "multiprocessing_context": "thread"}, "multiprocessing_context"),
        ({"opaque": "show"}, "opaque"),
        ({"shuffle_window": 0}, "window"),
        ({"seed": -1}, "seed"),
        ({"size": 0}, "size"),
        ({"prefetch": "much"}, "much"),
    ],
)
def test_wrong_options_are_named(url, options, said):
    with pytest.raises(OptionError, match=said):
        Loader(url, **options)


@pytest.mark.parametrize("loader", [Loader, NumpyLoader])
def test_defaults_are_those_of_the_spec(loader):
    """They stand in the signatures too, for readers and editors."""
    of_spec = {f.name: f.default for f in fields(Spec)}
    given = signature(loader).parameters.values()
    mine = {p.name: p.default for p in given if p.name in of_spec and p.name != "dataset"}
    assert mine == {name: of_spec[name] for name in mine}
    assert mine.keys() >= {"fidelity", "size", "shuffle", "seed", "storage_options"}


# ---- elsewhere


def send_two_epochs(loader, back):
    """Send what an epoch reads, and the next at another fidelity."""
    out = [loader.n_samples, sorted(samples(loader))]
    loader.fidelity = 5
    back.put([*out, sorted(samples(loader)), loader.stats().samples])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_process_to_which_it_was_sent_reads_the_same(url, num_workers, is_used):
    loader = Loader(url, 7, num_workers=num_workers, **SMALL)
    if is_used:
        first = iter(loader)
        next(first)
    epoch = loader.epoch
    context = get_context("spawn")
    back = context.SimpleQueue()
    process = context.Process(target=send_two_epochs, args=(loader, back))
    process.start()
    n, *there, n_read = back.get()
    process.join()
    assert n == N
    assert there == [at_fidelity(url, k, epoch + i) for i, k in enumerate((3, 5))]
    assert n_read == 2 * N
    assert loader.fidelity == 3
    assert sorted(samples(loader)) == at_fidelity(url, 3, epoch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_copy_has_no_workers_and_counts_anew(url, num_workers):
    loader = Loader(url, 7, num_workers=num_workers, **SMALL)
    batches = iter(loader)
    got = [next(batches)]
    other = pickle.loads(pickle.dumps(loader))  # noqa: S301 - our own bytes
    assert worker_pids(other) == []
    assert other.stats() == Signals()
    assert other.state_dict() == loader.state_dict()
    assert sorted(samples(other)) == sorted(of_numpy(url, 1))
    got += batches
    assert sorted(samples(got)) == sorted(of_numpy(url))
    assert not set(worker_pids(other)) & set(worker_pids(loader))
    assert (loader.stats().samples, other.stats().samples) == (N, N)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_copy_starts_workers_in_the_same_way(url, method):
    for context in (method, get_context(method), torch.multiprocessing.get_context(method)):
        loader = Loader(url, 7, num_workers=1, multiprocessing_context=context)
        other = pickle.loads(pickle.dumps(loader))  # noqa: S301 - our own bytes
        assert other._context.get_start_method() == method


# ---- what goes wrong


class Slow:
    """The middle of an image, after a while: keeps workers busy."""

    n_draws = 0

    def box(self, width, height, draws):
        time.sleep(0.2)
        return CenterCrop().box(width, height, draws)


def killed_after(seconds, pid):
    """Kill a process in a while."""
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.start()
    return timer


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_is_an_error_and_others_take_over(url, victim):
    loader = Loader(url, 4, num_workers=2, crop=Slow(), **SMALL)
    batches = iter(loader)
    next(batches)
    pids = worker_pids(loader)
    timer = killed_after(0.3, pids[victim])
    start = time.monotonic()
    with pytest.raises(WorkerDiedError, match="fewer workers"):
        list(batches)
    assert time.monotonic() - start < 20
    timer.join()
    assert not any(map(alive, pids))
    loader.set_epoch(0)
    assert sorted(p for p, *_ in samples(loader)) == list(range(N))
    assert not set(worker_pids(loader)) & set(pids)


@pytest.mark.slow
def test_workers_that_die_outside_of_the_loader_are_replaced(url):
    loader = Loader(url, 4, num_workers=2, **SMALL)
    list(loader)
    pids = worker_pids(loader)

    def step():
        os.kill(pids[0], signal.SIGKILL)
        time.sleep(5)  # torch's handler of SIGCHLD raises wherever the main thread is

    with pytest.raises(RuntimeError, match="killed by signal"):
        step()
    assert sorted(p for p, *_ in samples(loader)) == list(range(N))
    assert not set(worker_pids(loader)) & set(pids)


def alive(pid):
    """Say whether a process runs."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as f:  # noqa: PTH123 - a kernel file
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_damage_is_an_error_of_its_type_and_the_loader_goes_on(folder, tmp_path, num_workers):
    copy = tmp_path / "ds"
    for path in folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    objects = sorted(p for p in (copy / "objects").rglob("*") if p.is_file())
    whole = objects[0].read_bytes()
    loader = Loader(str(copy), 4, num_workers=num_workers, **SMALL)
    assert len(samples(loader)) == N
    objects[0].write_bytes(whole[:60] + bytes(b ^ 1 for b in whole[60:]))
    with pytest.raises(ChecksumError, match=objects[0].name) as caught:
        list(loader)
    assert "dataloader.py" not in "".join(map(str, traceback.extract_tb(caught.tb)))
    objects[0].write_bytes(whole)
    assert sorted(p for p, *_ in samples(loader)) == list(range(N))


SCRIPT = """
import signal, sys, time
from pcrstore.torch import Loader

# A shell starts what it puts into the background with interrupts ignored, and children inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == "__main__":
    loader = Loader(sys.argv[1], 2, size=16, num_workers=int(sys.argv[2]))
    batches = iter(loader)
    next(batches)
    print("begun", flush=True)
    if sys.argv[3] == "leave":
        sys.exit(3)
    while True:
        for _ in loader:
            time.sleep(0.01)
"""


def group_ends(pgid, seconds):
    """Say whether every process of a group is gone within a time; kill what is not."""
    deadline = time.monotonic() + seconds
    try:
        while True:
            os.killpg(pgid, 0)
            if time.monotonic() >= deadline:
                os.killpg(pgid, signal.SIGKILL)
                return False
            time.sleep(0.05)
    except ProcessLookupError:
        return True


@contextmanager
def started(url, *arguments):
    """Start the script in a process group of its own, and wait until it has a batch."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            group_ends(process.pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_script_that_leaves_in_the_middle_ends(url, num_workers):
    with started(url, str(num_workers), "leave") as process:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 3
        assert err == ""
        assert group_ends(process.pid, 5)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("to", ["terminal", "process"])
def test_an_interrupt_ends_it_and_its_workers(url, num_workers, to):
    with started(url, str(num_workers), "stay") as process:
        time.sleep(0.5)
        start = time.monotonic()
        (os.killpg if to == "terminal" else os.kill)(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert group_ends(process.pid, 5)
        assert time.monotonic() - start < 5
        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")


INTERRUPTED = """
import itertools, os, random, signal, sys, threading, time
from pcrstore import Mix
from pcrstore.torch import Loader

signal.signal(signal.SIGINT, signal.default_int_handler)
lost, armed, n, rng = [], threading.Semaphore(0), 60, random.Random(4)
sys.unraisablehook = lambda u: lost.append(f"{u.exc_type} {u.object}")

def interrupt():
    while True:
        armed.acquire()
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
# Many batches and few ends of an epoch, where Python's own weak sets have callbacks.
loader = Loader(Mix({sys.argv[1]: 1.0}, epoch_size=2000), 2, size=16)
for _ in range(n):
    try:
        for i, _ in enumerate(itertools.chain.from_iterable(itertools.repeat(loader))):
            if i == 1:
                armed.release()
            if lost:
                sys.exit(lost[0])
    except KeyboardInterrupt:
        pass
print(n)
"""


@pytest.mark.slow
def test_no_interrupt_is_lost(url):
    """Python ignores what is raised in callbacks, and waits for the GIL there like anywhere."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "60\n"), done.stderr


@pytest.mark.parametrize("progress", [False, True])
def test_no_batch_is_kept_while_the_next_is_waited_for(url, monkeypatch, progress):
    kept = kept_while_waiting(monkeypatch)
    assert len(list(map(len, Loader(url, 7, progress=progress, **SMALL)))) == 6
    assert kept == [False]


@pytest.mark.parametrize("progress", [False, True])
def test_no_batch_is_kept_while_workers_are_waited_for(url, monkeypatch, progress):
    loader = Loader(url, 7, num_workers=1, progress=progress, **SMALL)
    batches, last, kept, real = iter(loader), [], [], loader._call_torch

    def wait(call):
        kept.extend(batch() is not None for batch in last)
        return real(call)

    monkeypatch.setattr(loader, "_call_torch", wait)
    for images, *_ in batches:
        last[:] = [ref(images)]
        del images, _
    assert kept == [False] * 6
