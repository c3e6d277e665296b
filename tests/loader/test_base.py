"""A loader goes through its epochs as it is told, and goes on from a state to the sample."""

import copy
import json
import pickle
import threading
from collections import Counter
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from epochs import shards_of
from flows import DictStore, write_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from small_datasets import (
    a_dataset,
    files,
    images_of,
    of_images,
    opened,
    recorded,
    stored,
    threads,
    until,
)

import pcrstore
from pcrstore import Mix, NumpyLoader
from pcrstore.errors import DecodeError, FidelityError, OptionError, UsageError
from pcrstore.loader.batches import BatchStream
from pcrstore.loader.options import Spec
from pcrstore.loader.state import STATE_FORMAT
from pcrstore.loader.stats import Signals

N = 20
DS = a_dataset(n=N)


pytestmark = pytest.mark.usefixtures("no_threads_left")


def a_loader(dataset=DS, batch_size=6, **more):
    options = {"size": 2, "fidelity": 1, "n_threads": 1, "positions": True, "shuffle_window": 4}
    return NumpyLoader(dataset, batch_size, **{**options, **more})


def read(loader, n=None):
    """Positions of the next n batches of a new iteration, or of all; and whether it ended."""
    batches, got = iter(loader), []
    for _ in range(10**9 if n is None else n):
        batch = next(batches, None)
        if batch is None:
            break
        got += images_of([batch])
    batches.close()
    return got


def epoch_of(epoch, **more):
    """All positions of an epoch, by a loader that reads nothing else."""
    loader = a_loader(**more)
    loader.set_epoch(epoch)
    return read(loader)


EPOCHS = [epoch_of(e) for e in range(4)]


def through_json(state):
    text = json.dumps(state)
    assert len(text) < 1000
    return json.loads(text)


# ---- epochs


def test_epochs_differ_and_each_has_every_image_once():
    assert len({tuple(e) for e in EPOCHS}) == len(EPOCHS)
    for e in EPOCHS:
        assert sorted(e) == list(range(N))


def test_each_iteration_reads_the_next_epoch():
    loader = a_loader()
    for e in range(3):
        assert loader.epoch == e
        assert read(loader) == EPOCHS[e]
    assert loader.epoch == 3


def test_an_epoch_that_is_set_is_read_and_then_the_next():
    loader = a_loader()
    loader.set_epoch(2)
    assert loader.epoch == 2
    assert read(loader) == EPOCHS[2]
    assert read(loader) == EPOCHS[3]
    loader.set_epoch(0)
    loader.set_epoch(1)
    assert read(loader) == EPOCHS[1]
    loader.set_epoch(1)
    assert read(loader) == EPOCHS[1]


def test_a_loop_that_is_left_begins_the_next_epoch():
    loader = a_loader()
    assert read(loader, 1) == EPOCHS[0][:6]
    assert loader.epoch == 1
    assert read(loader, 2) == EPOCHS[1][:12]
    assert read(loader) == EPOCHS[2]


def test_an_epoch_cannot_be_negative():
    loader = a_loader()
    with pytest.raises(OptionError, match="epoch must be an integer of at least 0, got -1"):
        loader.set_epoch(-1)
    for epoch in (1.0, "1", True, None):
        with pytest.raises(OptionError, match=f"epoch must be .* got {epoch!r}"):
            loader.set_epoch(epoch)
    assert read(loader) == EPOCHS[0]


def test_integers_may_be_of_numpy_and_states_are_json_all_the_same():
    one = np.int64(1)
    loader = a_loader(seed=one, shuffle_window=np.uint8(4), n_threads=one, size=(one, one))
    loader.set_epoch(one)
    assert read(loader, 1) == epoch_of(1, seed=1)[:6]
    state = through_json(loader.state_dict())
    other = a_loader(seed=1)
    other.load_state_dict(state)
    assert read(other) == epoch_of(1, seed=1)[6:]


@pytest.mark.parametrize("rest", ["old-first", "new-first", "together"])
def test_a_second_iteration_cuts_the_first_off(rest):
    """It must not look like the end of an epoch."""
    loader = a_loader()
    first = iter(loader)
    got = images_of([next(first)])
    second = iter(loader)
    new = images_of([next(second)])
    if rest == "old-first":
        for _ in range(2):
            with pytest.raises(UsageError, match=r"another iteration .* begun: 3 batches .* left"):
                next(first)
        assert loader.state_dict()["batches"] == 1
        new += images_of(second)
    elif rest == "new-first":
        new += images_of(second)
        with pytest.raises(UsageError, match="another iteration"):
            next(first)
    else:
        first.close()
        new += images_of(second)
    assert got == EPOCHS[0][:6]
    assert new == EPOCHS[1]
    assert loader.state_dict()["batches"] == 4
    assert loader.stats().samples == N + 6


def test_what_is_still_said_of_an_older_iteration_is_not_of_the_newer():
    """Another thread was about to say it when the newer one began."""
    loader = a_loader()
    older = iter(loader)
    next(older)
    given, ended = older._on_given, older._on_ended
    newer = iter(loader)
    got = [next(newer)]
    given()
    assert loader.state_dict()["batches"] == 1
    ended()
    assert images_of([*got, *newer]) == EPOCHS[1]
    assert loader.stats().batches == 5


def test_an_iteration_that_ends_in_another_thread_does_not_end_one_that_begins(monkeypatch):
    loader = a_loader()
    real, is_ending, may_end = loader._end, threading.Event(), threading.Event()

    def end(reason=""):
        if not reason:
            is_ending.set()
            may_end.wait(0.2)
        real(reason)

    monkeypatch.setattr(loader, "_end", end)
    older = iter(loader)
    other = threading.Thread(target=older.close)
    other.start()
    assert is_ending.wait(5)
    newer = iter(loader)
    may_end.set()
    other.join()
    assert images_of(newer) == EPOCHS[0]


def test_an_iteration_that_was_given_all_ends_although_another_has_begun():
    loader = a_loader()
    first = iter(loader)
    got = [next(first) for _ in range(4)]
    second = iter(loader)
    assert list(first) == []
    assert images_of(got) == EPOCHS[0]
    assert images_of(second) == EPOCHS[1]


def test_a_look_at_a_batch_within_a_loop_is_an_error():
    loader = a_loader()

    def train():
        for _ in loader:
            next(iter(loader))

    with pytest.raises(UsageError, match="another iteration of this loader has begun"):
        train()
    assert read(loader) == EPOCHS[2]


def test_loops_that_were_left_and_forgotten_end_by_themselves():
    loader = a_loader()
    for epoch in range(3):
        for batch in loader:
            assert images_of([batch]) == EPOCHS[epoch][:6]
            break
    kept = iter(loader)
    next(kept)
    assert read(loader, 1)
    del kept
    assert len(read(loader)) == N


def test_an_iteration_that_failed_or_was_closed_has_no_more():
    loader = a_loader(a_dataset(text=(7,)), batch_size=1)
    batches = iter(loader)
    with pytest.raises(DecodeError):
        list(batches)
    assert list(batches) == []
    batches = iter(loader)
    next(batches)
    batches.close()
    batches.close()
    assert list(batches) == []
    assert until(lambda: not threads())


def test_the_epoch_is_settled_and_reading_begins_with_the_iteration():
    ds, store = recorded(n=N)
    loader = a_loader(ds)
    batches = iter(loader)
    assert until(lambda: of_images(store))
    assert loader.epoch == 0
    loader.set_epoch(3)
    assert loader.state_dict()["epoch"] == 0
    assert images_of(batches) == EPOCHS[0]
    assert read(loader) == EPOCHS[3]


def test_an_iteration_that_is_dropped_before_its_first_batch_leaves_no_threads():
    loader = a_loader()
    iter(loader)
    assert until(lambda: not threads())
    assert loader.state_dict()["batches"] == 0
    assert read(loader) == EPOCHS[0]


def test_an_iteration_that_has_yielded_nothing_does_not_count():
    """Lightning calls `iter` twice before the first batch, also where it resumes."""
    loader = a_loader()
    kept = [iter(loader), iter(loader)]
    assert images_of(iter(loader)) == EPOCHS[0]
    with pytest.raises(UsageError, match=r"another iteration .* begun: 4 batches"):
        next(kept[1])
    state = next_state(loader, 3)
    resumed = a_loader()
    resumed.load_state_dict(state)
    for _ in range(2):
        kept.append(iter(resumed))
        assert (resumed.epoch, resumed.n_left, resumed.state_dict()["epoch"]) == (1, 1, 1)
    resumed.set_epoch(1)
    assert images_of(iter(resumed)) == EPOCHS[1][18:]
    assert read(resumed) == EPOCHS[2]


def next_state(loader, n):
    """Return the state after some batches of the next epoch."""
    read(loader, n)
    return through_json(loader.state_dict())


def test_an_epoch_without_a_batch_counts():
    loader = a_loader(batch_size=64, drop_last=True)
    assert [read(loader), loader.epoch, read(loader), loader.epoch] == [[], 1, [], 2]


def test_an_epoch_whose_first_batch_fails_is_read_again(monkeypatch):
    loader = a_loader()
    with monkeypatch.context() as patch:
        patch.setattr(loader, "_arrays", lambda _: {}["first"])
        with pytest.raises(KeyError, match="first"):
            read(loader)
    assert read(loader) == EPOCHS[0]


def test_another_epoch_is_set_over_a_loaded_position_that_was_only_looked_at():
    loader = a_loader()
    loader.load_state_dict(next_state(a_loader(), 2))
    iter(loader)
    with pytest.warns(UserWarning, match="drops the position in epoch 0"):
        loader.set_epoch(2)
    assert read(loader) == EPOCHS[2]


def test_an_iteration_that_cannot_begin_reads_no_epoch_and_ends_none(monkeypatch):
    loader = a_loader()
    batches = iter(loader)
    got = [next(batches)]
    with monkeypatch.context() as patch:
        patch.setattr(loader, "_topology", lambda: {}["rank"])
        with pytest.raises(KeyError):
            iter(loader)
    assert images_of([*got, *batches]) == EPOCHS[0]
    with monkeypatch.context() as patch:
        patch.setattr(loader, "_start", lambda *_: {}["threads"])
        with pytest.raises(KeyError):
            iter(loader)
    assert read(loader) == EPOCHS[1]


# ---- copies

COPIES = {
    "pickle": lambda loader: pickle.loads(pickle.dumps(loader)),  # noqa: S301 (our own bytes)
    "deep": copy.deepcopy,
    "shallow": copy.copy,
}


PLAIN = opened(DictStore(stored(n=N)))
"""Of a store that can be pickled."""


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("n", [None, 0, 1, 4])
def test_a_copy_has_the_position_and_goes_its_own_way(copied, n):
    loader = a_loader(PLAIN)
    batches = iter(()) if n is None else iter(loader)
    got = [next(batches) for _ in range(n or 0)]
    other = copied(loader)
    assert other.state_dict() == loader.state_dict()
    assert other.stats() == Signals()
    assert read(other) == EPOCHS[1 if n else 0]
    assert images_of([*got, *batches]) == ([] if n is None else EPOCHS[0])
    assert read(loader) == EPOCHS[0 if n is None else 1]
    one, two = loader.stats(), other.stats()
    assert two.samples == N
    assert one.samples == (N if n is None else 2 * N)
    assert min(one.requests, two.requests, one.bytes, two.bytes) > 0


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_where_a_state_or_an_epoch_was_set(copied):
    loader = a_loader(PLAIN)
    read(loader, 2)
    assert loader.stats() != copied(loader).stats() == Signals()
    again = a_loader(PLAIN)
    again.load_state_dict(loader.state_dict())
    assert read(copied(again)) == read(again) == EPOCHS[0][12:]
    again.set_epoch(3)
    assert read(copied(again)) == read(again) == EPOCHS[3]


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_has_a_shared_fidelity_of_its_own(copied):
    loader = a_loader(PLAIN, fidelity=2)
    shared_fidelity = loader._pipeline.shared_fidelity
    other = copied(loader)
    loader.fidelity = 5
    assert (loader.fidelity, other.fidelity) == (5, 2)
    assert loader._pipeline.shared_fidelity is shared_fidelity  # that of an iteration under way
    assert shared_fidelity.mean_bytes(0) > other._pipeline.shared_fidelity.mean_bytes(0)
    other.fidelity = 1
    assert loader._pipeline.shared_fidelity.mean_bytes(0) == shared_fidelity.mean_bytes(0)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_loader_is_small_in_a_pickle(copied):
    loader = a_loader(PLAIN, size=64)
    read(loader)
    assert len(pickle.dumps(copied(loader))) < len(pickle.dumps(loader._pipeline)) + 5000


# ---- the end


def test_a_closed_loader_has_no_threads_and_can_be_iterated_again():
    loader = a_loader()
    loader.close()
    with loader as same:
        assert same is loader
        batches = iter(loader)
        got = images_of([next(batches)])
        assert threads()
    assert until(lambda: not threads())
    loader.close()
    with pytest.raises(UsageError, match=r"this loader was closed: 3 batches .* left"):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (0, 1)
    assert loader.stats().samples == 6
    assert read(loader) == EPOCHS[1]
    other = a_loader()
    other.load_state_dict(state)
    assert got + read(other) == EPOCHS[0]


def test_a_loader_is_closed_where_its_block_fails():
    loader = a_loader()
    batches = iter(loader)
    with pytest.raises(KeyError), loader:
        raise KeyError
    assert until(lambda: not threads())
    with pytest.raises(UsageError, match="closed: 4 batches"):
        next(batches)


def test_threads_that_others_stop_are_no_end_of_an_epoch():
    batches = iter(a_loader(prefetch=1, shuffle_window=1))
    next(batches)
    BatchStream.close_all()
    with pytest.raises(UsageError, match="stopped: 3 batches"):
        list(batches)


LENGTHS = {
    "pad": ({}, 4, 0, 0),
    "drop-last": ({"drop_last": True}, 3, 0, 2),
    "drop-last-of-full": ({"drop_last": True, "batch_size": 5}, 4, 0, 0),
    "larger-than-the-epoch": ({"batch_size": 64}, 1, 0, 0),
    "larger-and-drop-last": ({"batch_size": 64, "drop_last": True}, 0, 0, N),
    "three-ranks-pad": ({"world_size": 3}, 2, 1, 0),
    "three-ranks-drop": ({"world_size": 3, "uneven": "drop"}, 1, 0, 2),
    "three-ranks-drop-last": ({"world_size": 3, "drop_last": True}, 1, 0, 2),
    "more-ranks-than-images-pad": ({"world_size": 24}, 1, 4, 0),
    "more-ranks-than-images-drop": ({"world_size": 24, "uneven": "drop"}, 0, 0, N),
    "selected": ({"select": [1, 2, 3]}, 1, 0, 0),
}


@pytest.mark.parametrize(("options", "batches", "padded", "dropped"), LENGTHS.values(), ids=LENGTHS)
def test_lengths_are_what_is_yielded(options, batches, padded, dropped):
    loader = a_loader(**options)
    assert (len(loader), loader.n_padded, loader.n_dropped) == (batches, padded, dropped)
    per_rank = []
    for rank in range(options.get("world_size", 1)):
        mine = a_loader(rank=rank, **options)
        got = list(mine)
        assert len(got) == batches == len(mine)
        per_rank += images_of(got)
    n = len(options.get("select", range(N)))
    assert len(per_rank) == n + padded - dropped
    assert len(set(per_rank)) == n - dropped


def test_the_length_is_the_epochs_and_what_is_left_is_of_what_is_under_way_or_next():
    loader = a_loader()
    state = None
    for i, _ in enumerate(loader):
        assert (len(loader), loader.n_left) == (4, 3 - i)
        if i == 2:
            state = loader.state_dict()
    resumed = a_loader()
    resumed.load_state_dict(state)
    assert (len(resumed), resumed.n_left) == (4, 1)
    batches = iter(resumed)
    assert (len(resumed), resumed.n_left) == (4, 1)
    next(batches)
    assert (len(resumed), resumed.n_left) == (4, 0)
    assert list(batches) == []
    assert (len(resumed), resumed.n_left) == (4, 4)
    assert len(list(resumed)) == 4
    resumed.set_epoch(7)
    assert (len(resumed), resumed.n_left) == (4, 4)


@pytest.mark.parametrize("world", [2, 3])
def test_on_other_ranks_the_length_is_that_of_an_epoch_on_them(world):
    state = next_state(a_loader(), 2)  # 12 of 20
    resumed = a_loader(world_size=world)
    resumed.load_state_dict(state)
    assert len(resumed) == len(a_loader(world_size=world)) == 2
    assert resumed.n_left == -(-8 // world // 6)


# ---- state


@pytest.mark.parametrize("n", range(6))
def test_a_state_goes_on_where_it_was_taken(n):
    """After 4 batches the epoch is read, whether its loop has noticed or not."""
    loader = a_loader()
    before = read(loader, n) if n else []
    state = through_json(loader.state_dict())
    assert state == loader.state_dict()
    other = a_loader()
    other.load_state_dict(state)
    assert other.epoch == (1 if n >= 4 else 0)
    after = read(other)
    if n < 4:
        assert before + after == EPOCHS[0]
        assert read(other) == EPOCHS[1]
    else:
        assert after == EPOCHS[1]
    assert loader.epoch == (1 if n else 0)


def test_a_state_is_of_what_the_loop_was_given():
    loader = a_loader()
    for i, _ in enumerate(loader):
        state = loader.state_dict()
        assert (state["epoch"], state["batches"]) == (0, i + 1)
    assert loader.state_dict()["batches"] == 4


def test_states_of_states():
    loader, got = a_loader(batch_size=3), []
    for n in (2, 1, 0, 3):
        got += read(loader, n) if n else []
        state = through_json(loader.state_dict())
        loader = a_loader(batch_size=3)
        loader.load_state_dict(state)
        assert loader.state_dict() == through_json(loader.state_dict())
        again = a_loader(batch_size=3)
        again.load_state_dict(loader.state_dict())
        assert again.epoch == loader.epoch
    got += read(loader)
    assert got == epoch_of(0, batch_size=3)
    assert read(loader) == epoch_of(1, batch_size=3)


def test_a_state_that_is_loaded_wins_over_what_is_under_way():
    loader = a_loader()
    read(loader, 1)
    state = loader.state_dict()
    read(loader)
    read(loader, 2)
    loader.load_state_dict(state)
    assert loader.state_dict()["epoch"] == 0
    assert read(loader) == EPOCHS[0][6:]


def test_what_is_selected_is_digested_once(monkeypatch):
    loader = a_loader(select=range(19))
    states = [loader.state_dict()]
    monkeypatch.setattr("pcrstore.loader.pipeline.crc32c", lambda _: {}["again"])
    states.append(loader.state_dict())
    states[0]["data"]["versions"].append("not ours to write")
    read(loader, 1)
    states.append(loader.state_dict())
    loader.load_state_dict(states[1])
    assert states[1]["data"] == states[2]["data"] != states[0]["data"]


def test_setting_the_epoch_of_a_state_keeps_its_place_and_another_does_not():
    first = a_loader()
    read(first, 2)
    for epoch, expected in ((0, EPOCHS[0][12:]), (1, EPOCHS[1])):
        loader = a_loader()
        loader.load_state_dict(first.state_dict())
        with pytest.warns(UserWarning, match="drops") if epoch else nullcontext():
            loader.set_epoch(epoch)
        assert loader.epoch == epoch
        assert read(loader) == expected
        assert read(loader) == EPOCHS[epoch + 1]


def test_an_epoch_that_was_read_to_its_end_and_is_set_again_has_nothing_left():
    """So a job that loops over epochs from the one of its state does not read it twice."""
    first = a_loader()
    read(first)
    loader = a_loader()
    loader.load_state_dict(first.state_dict())
    seen = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert (len(loader), loader.n_left) == (4, 0 if epoch == 0 else 4)
        seen.append(read(loader))
    assert seen == [[], EPOCHS[1], EPOCHS[2]]


def test_a_rest_that_makes_no_batch_is_skipped():
    first = a_loader()
    read(first, 3)
    loader = a_loader(drop_last=True)
    loader.load_state_dict(first.state_dict())
    assert loader.epoch == 1
    assert len(loader) == 3
    assert read(loader) == epoch_of(1, drop_last=True)


@contextmanager
def ranks(world, state, **options):
    loaders = [a_loader(rank=r, world_size=world, **options) for r in range(world)]
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(through_json(state))
    yield loaders


@settings(max_examples=25, deadline=None)
@given(
    partitions=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(1, 7), st.integers(0, 4)),
        max_size=4,
    ),
    uneven=st.sampled_from(["pad", "drop"]),
    last=st.sampled_from([1, 2, 3, 8]),
    shard=st.sampled_from([7, 2**18]),
    seed=st.integers(0, 3),
)
def test_any_ranks_go_on_to_the_sample(partitions, uneven, last, shard, seed):
    state, got, extra = None, [], 0
    with shards_of(shard):
        for world, batch, n in [*partitions, (last, 5, None)]:
            options = {"batch_size": batch, "uneven": uneven, "seed": seed, "prefetch": 1}
            with ranks(world, state, **options) as loaders:
                if loaders[0].epoch == 1:
                    extra += world - 1  # all that may be left where it makes no batch
                    break
                extra += loaders[0].n_padded + loaders[0].n_dropped
                for loader in loaders:
                    got += read(loader, n) if n != 0 else []
                states = [loader.state_dict() for loader in loaders]
                assert all(s == states[0] for s in states)
                state = states[0]
    counts = Counter(got)
    if uneven == "pad":
        assert set(counts) == set(range(N))
        assert len(got) - N <= extra
    else:
        assert not counts or max(counts.values()) == 1
        assert N - len(got) <= extra
    if {world for world, *_ in partitions} | {last} == {1}:
        assert sorted(got) == list(range(N))


def test_a_mix_goes_on_too():
    mix = Mix({DS: 2, a_dataset(n=7, seed=50): 1}, epoch_size=30)
    whole = epoch_of(1, dataset=mix)
    first = a_loader(mix)
    first.set_epoch(1)
    before = read(first, 3)
    second = a_loader(mix, batch_size=5)
    second.load_state_dict(through_json(first.state_dict()))
    after = read(second)
    assert sorted(before + after) == sorted(whole)
    assert before == whole[:18]


def good_state(**changes):
    loader = a_loader()
    read(loader, 2)
    other = a_loader()
    other.load_state_dict(loader.state_dict())
    read(other, 1)
    state = other.state_dict()
    assert state["left"]
    assert state["batches"] == 1
    return {**state, **changes}


GOOD = good_state()
[ROW] = GOOD["left"]

MALFORMED = {
    "none": None,
    "a-list": [],
    "empty": {},
    "text": "state",
    "format-later": {**GOOD, "format": STATE_FORMAT + 1},
    "format-missing": {k: v for k, v in GOOD.items() if k != "format"},
    "data-missing": {k: v for k, v in GOOD.items() if k != "data"},
    "data-other": {**GOOD, "data": 3},
    "data-more": {**GOOD, "data": {**GOOD["data"], "more": 1}},
    "epoch-negative": {**GOOD, "epoch": -1},
    "epoch-text": {**GOOD, "epoch": "0"},
    "epoch-fraction": {**GOOD, "epoch": 0.5},
    "epoch-boolean": {**GOOD, "epoch": True},
    "batches-missing": {k: v for k, v in GOOD.items() if k != "batches"},
    "batches-negative": {**GOOD, "batches": -1},
    "batches-over": {**GOOD, "batches": 3},
    "world-0": {**GOOD, "world_size": 0},
    "world-endless": {**GOOD, "world_size": 2**40},
    "workers-over": {**GOOD, "world_size": 2**10, "num_workers": 2**6 + 1},
    "workers-0": {**GOOD, "num_workers": 0},
    "batch-0": {**GOOD, "batch_size": 0},
    "batch-none": {**GOOD, "batch_size": None},
    "uneven-other": {**GOOD, "uneven": "both"},
    "uneven-missing": {k: v for k, v in GOOD.items() if k != "uneven"},
    "drop-last-text": {**GOOD, "drop_last": "no"},
    "drop-last-missing": {k: v for k, v in GOOD.items() if k != "drop_last"},
    "left-text": {**GOOD, "left": "all"},
    "left-number": {**GOOD, "left": 3},
    "left-a-row": {**GOOD, "left": ROW},
    "left-short-row": {**GOOD, "left": [ROW[:3]]},
    "left-long-row": {**GOOD, "left": [[*ROW, 0]]},
    "left-shard-over": {**GOOD, "left": [[1, *ROW[1:]]]},
    "left-stop-over": {**GOOD, "left": [[0, 0, N + 1, 0]]},
    "left-turned": {**GOOD, "left": [[0, 5, 4, 0]]},
    "left-negative": {**GOOD, "left": [[0, -1, 4, 0]]},
    "left-boolean": {**GOOD, "left": [[False, 0, 4, 0]]},
    "left-after-far": {**GOOD, "left": [[*ROW[:3], 2**70]]},
    "left-after-far-and-nothing-read": {**GOOD, "left": [[*ROW[:3], 2**70]], "batches": 0},
    "left-twice": {**GOOD, "left": [ROW, ROW]},
    "left-overlapping": {**GOOD, "left": [[0, 0, 10, 0], [0, 9, N, 0]]},
    "left-overlapping-turned": {**GOOD, "left": [[0, 9, N, 0], [0, 0, 10, 0]]},
}


@pytest.mark.parametrize("state", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_state_is_refused_and_changes_nothing(state):
    loader = a_loader()
    with pytest.raises(OptionError):
        loader.load_state_dict(state)
    assert read(loader) == EPOCHS[0]


def test_states_that_touch_are_no_overlap():
    loader = a_loader()
    loader.load_state_dict({**GOOD, "batches": 0, "left": [[0, 0, 10, 0], [0, 10, N, 0]]})
    assert sorted(read(loader)) == list(range(N))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([k for k in GOOD if k != "data"]),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-2, 70)
        | st.sampled_from([2**31, 2**63, 2**64, -(2**70)])
        | st.floats()
        | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=12,
    ),
)
def test_a_spoilt_state_is_refused_or_can_be_read(name, value):
    loader = a_loader()
    try:
        loader.load_state_dict({**GOOD, name: value})
    except OptionError:
        return
    assert set(images_of([next(iter(loader))])) <= set(range(N))


OTHERS = {
    "seed": ({"seed": 1}, "seed must be 1, got 0"),
    "shuffle": ({"shuffle": False}, "shuffle must be False, got True"),
    "window": ({"shuffle_window": 5}, "shuffle_window must be 5, got 4"),
    "dataset": ({"dataset": a_dataset(n=7, seed=50)}, r"images must be \[7\], got \[20\]"),
    "some": ({"select": range(19)}, r"selected must be \[19\], got \[20\]"),
    "mixed": ({"dataset": Mix({DS: 1}, epoch_size=30)}, r"counts must be \[30\], got \[20\]"),
}


@pytest.mark.parametrize(("options", "says"), OTHERS.values(), ids=OTHERS)
def test_a_state_of_other_data_is_refused_by_name(options, says):
    loader = a_loader(**options)
    with pytest.raises(OptionError, match=f"of another loader: {says}"):
        loader.load_state_dict(GOOD)


UNLIKE = {
    "more": ({**GOOD["data"], "more": 1}, "'more' is not known to this release, got 1"),
    "less": ({k: v for k, v in GOOD["data"].items() if k != "seed"}, "seed must be 0, and is miss"),
    "none": ({**GOOD["data"], "seed": None}, "seed must be 0, got None"),
    "number": (3, "data must be a dict, got 3"),
}


@pytest.mark.parametrize(("data", "says"), UNLIKE.values(), ids=UNLIKE)
def test_data_that_is_written_otherwise_is_refused_by_name(data, says):
    with pytest.raises(OptionError, match=f"of another loader: {says}"):
        a_loader().load_state_dict({**GOOD, "data": data})


def test_a_state_of_other_images_of_the_same_number_is_refused():
    state = a_loader(select=[1, 2, 3]).state_dict()
    with pytest.raises(OptionError, match="selection must be"):
        a_loader(select=[1, 2, 4]).load_state_dict(state)
    a_loader(select=[3, 2, 1]).load_state_dict(state)


def test_what_does_not_decide_the_order_may_change():
    state = through_json(GOOD)
    loader = a_loader(batch_size=2, size=5, fidelity=4, prefetch=1, n_threads=3)
    loader.load_state_dict(state)
    assert read(loader) == EPOCHS[0][18:]


# ---- what it says of itself


def test_a_loader_says_what_it_reads():
    assert (
        repr(a_loader(fidelity=2)) == f"<NumpyLoader of {DS!r} at fidelity 2, 20 samples an epoch>"
    )
    mix = Mix({DS: 2, a_dataset(n=7, seed=50): 1}, epoch_size=30)
    assert repr(a_loader(mix, fidelity="full")).count("7 images") == 1
    each = repr(a_loader(fidelity=[1, 2] * 10))
    assert "at fidelity [1, 2, 1, " in each
    assert len(each) < 300


# ---- fidelity and signals


def test_fidelity_is_what_was_set_last():
    loader = a_loader(PLAIN, fidelity=2)
    assert loader.fidelity == 2
    loader.fidelity = "full"
    assert loader.fidelity == "full"
    with pytest.raises(FidelityError, match=r"1\.\.5, got 9"):
        loader.fidelity = 9
    assert loader.fidelity == "full"


def test_signals_add_up_over_epochs_and_loops_that_are_left():
    ds, store = recorded(n=N)
    loader = a_loader(ds)
    assert loader.stats().samples == loader.stats().requests == 0
    for batches, samples in ((4, 20), (4 + 2, 20 + 12), (4 + 2 + 4, 20 + 12 + 20)):
        read(loader, 2) if batches == 6 else read(loader)
        stats = loader.stats()
        assert (stats.batches, stats.samples) == (batches, samples)
    assert stats.requests == len(store.named("get_range"))
    assert stats.bytes == sum(r.n_bytes for r in store.named("get_range"))
    assert stats.seconds >= stats.stall_seconds > 0
    assert stats.queue_depth == 0


def test_loaders_of_one_dataset_count_for_themselves():
    ds, store = recorded(n=N)
    list(ds.iter(1))
    before = ds.traffic
    seen = [0, 0]

    def n_read(i, act):
        n = len(store.named("get_range"))
        out = act()
        seen[i] += len(store.named("get_range")) - n
        return out

    splits = ({"split": "train"}, {"width": lambda w: w > 0})
    loaders = [n_read(i, lambda w=w: a_loader(ds, where=w)) for i, w in enumerate(splits)]
    assert [loader.stats().requests for loader in loaders] == seen  # where reads columns
    for i in (0, 1, 0):
        n_read(i, lambda i=i: read(loaders[i]))
        assert [loader.stats().requests for loader in loaders] == seen
    assert ds.traffic == before


def test_a_fidelity_that_was_changed_is_not_in_the_state():
    loader = a_loader(fidelity=1)
    state = loader.state_dict()
    loader.fidelity = 5
    assert loader.state_dict() == state
    loader.load_state_dict(state)
    assert loader.fidelity == 5


def test_time_runs_inside_of_epochs_alone():
    loader = a_loader()
    assert loader.stats().seconds == 0
    batches = iter(loader)
    next(batches)
    running = loader.stats().seconds
    assert 0 < running < loader.stats().seconds
    batches.close()
    assert loader.stats().seconds == loader.stats().seconds > running


@pytest.mark.parametrize("name", ["_stream", "_started"])
def test_signals_can_be_asked_for_while_another_thread_ends_the_iteration(name):
    """It does so between any two looks of this one at what is under way."""

    class Loader(NumpyLoader):
        def look(self):
            return self.__dict__.pop(name, None)

        def put(self, value):
            self.__dict__[name] = value

    setattr(Loader, name, property(Loader.look, Loader.put))
    loader = Loader(DS, 6, 1, 2)
    loader.close()
    batches = iter(loader)
    next(batches)
    assert loader.stats().seconds >= 0
    batches.close()


def test_signals_while_an_epoch_runs_count_what_was_given():
    loader = a_loader()
    for i, (*_, positions) in enumerate(loader):
        assert loader.stats().batches == i + 1
        assert loader.stats().samples == min(N, 6 * (i + 1))
        assert isinstance(positions, np.ndarray)


# ---- what a careless call must not do


def test_datasets_that_number_their_classes_otherwise_are_not_mixed():
    other = a_dataset(n=6, seed=50)
    assert a_loader(Mix({DS: 1, other: 1})).classes == DS.classes == ("cat", "dog")
    swapped = opened(DictStore(stored(n=6)))
    swapped._manifest = replace(swapped.manifest, classes=("dog", "cat"))
    with pytest.raises(OptionError, match=r"label 0 is 'cat' in .* and 'dog' in|label 0 is 'dog'"):
        a_loader(Mix({DS: 1, swapped: 1}))


def test_classes_that_only_grew_are_mixed():
    grown = opened(DictStore(stored(n=6)))
    grown._manifest = replace(grown.manifest, classes=("cat", "dog", "eel"))
    assert a_loader(Mix({DS: 1, grown: 1})).classes == ("cat", "dog", "eel")


def test_a_state_says_what_it_counts():
    state = a_loader().state_dict()
    assert state["kind"] == "batches"
    with pytest.raises(OptionError, match="a state that counts batches expected, got 'samples'"):
        a_loader().load_state_dict({**state, "kind": "samples"})


def test_a_state_of_another_version_says_how_to_go_on():
    state = a_loader().state_dict()
    state["data"] = {**state["data"], "versions": [7]}
    with pytest.raises(OptionError, match=r"versions must be \[1\], got \[7\]; give version="):
        a_loader().load_state_dict(state)


def test_a_state_of_the_same_images_in_other_records_is_refused():
    state = a_loader(a_dataset("zarr", n=N)).state_dict()
    with pytest.raises(OptionError, match="parts must be"):
        a_loader().load_state_dict(state)


def test_an_epoch_that_is_set_within_another_is_the_next():
    loader = a_loader()
    batches = iter(loader)
    first = images_of([next(batches)])
    loader.set_epoch(5)
    state = through_json(loader.state_dict())
    assert (state["epoch"], state["batches"], len(loader)) == (0, 1, 4)
    rest = images_of(batches)
    assert sorted(first + rest) == list(range(N))
    assert read(loader) == epoch_of(5)


def test_dropping_a_loaded_position_is_said():
    loader = a_loader()
    read(loader, 2)
    state = loader.state_dict()
    other = a_loader()
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"set_epoch\(3\) drops the position in epoch 0"):
        other.set_epoch(3)
    assert read(other) == epoch_of(3)


def test_an_open_dataset_brings_its_options_and_version():
    with pytest.raises(OptionError, match="storage_options are for URLs"):
        a_loader(storage_options={"key": "x"})
    with pytest.raises(OptionError, match="version is for one URL"):
        a_loader(version=1)
    for data in (DS, Mix({DS: 1, a_dataset(n=7, seed=50): 1})):
        for engine in ("fsspec", "obstore", "nonsense"):
            with pytest.raises(OptionError, match="engine is for URLs"):
                a_loader(data, engine=engine)
        assert a_loader(data, engine="auto").epoch == 0


def test_workers_are_not_sent_what_is_done_with(tmp_path):
    tree = write_tree(tmp_path / "photos", files(10))
    pcrstore.convert(str(tree), str(tmp_path / "ds"), workers=1)
    wanted = {"where": {"width": lambda w: w > 0}, "select": np.arange(9)}
    pipeline = a_loader(str(tmp_path / "ds"), **wanted)._pipeline
    again = pickle.loads(pickle.dumps(pipeline))  # noqa: S301 (our own bytes)
    assert len(again.sample_set.sources[0]) == 9
    assert again.fingerprint == pipeline.fingerprint


def test_a_url_with_a_password_is_not_shown():
    assert "hunter2" not in repr(Mix({"https://me:hunter2@host/ds": 1}))
    assert "hunter2" not in repr(Spec(dataset="https://me:hunter2@host/ds"))
