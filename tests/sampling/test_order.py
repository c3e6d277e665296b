"""The order of an epoch is a function of sizes, seed and epoch, and what is left of it is kept."""

from collections import Counter

import numpy as np
import pytest
from epochs import (
    RECORD,
    an_order,
    edges_of,
    epoch_of,
    flat,
    left_of,
    orders,
    records_of,
    shard_order_of,
    shard_orders_of,
    shards_of,
    stopped_orders,
    walk_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.hashing import key_of
from pcrstore.errors import OptionError
from pcrstore.sampling.order import EpochOrder, Run, ShardSlice, crop_keys
from pcrstore.sampling.sharding import n_of

GOLDEN = {
    # sizes, what differs from seed 0, epoch 0, window 4, blocks of 10: the first of the epoch
    "one record": ((3,), {}, [0, 1, 2]),
    "plain": ((40,), {}, [21, 23, 22, 3, 5, 4, 20, 18, 19, 6, 8, 7]),
    "another seed": ((40,), {"seed": 1}, [39, 27, 28, 29, 0, 1, 2, 10, 9, 11, 12, 13]),
    "another epoch": ((40,), {"epoch": 1}, [21, 22, 23, 18, 19, 20, 27, 28, 29, 9, 10, 11]),
    "whole records": ((40,), {"window": 1}, [21, 22, 23, 3, 4, 5, 20, 18, 19, 6, 7, 8]),
    "wide window": ((40,), {"window": 1024}, [23, 5, 4, 21, 22, 18, 3, 2, 7, 20, 0, 35]),
    "many shards": ((40,), {"shard": 15}, [21, 23, 22, 20, 1, 0, 24, 2, 26, 25, 27, 28]),
    "half of a source": (
        (40,),
        {"counts": [20], "epoch": 1},
        [18, 19, 33, 34, 35, 39, 30, 31, 32, 10, 11, 36],
    ),
    "two sources": (
        (40, 9),
        {"counts": [10, 12], "shard": 8, "epoch": 2, "seed": 5},
        [
            (1, 6),
            (1, 7),
            (1, 8),
            (1, 0),
            (0, 30),
            (0, 31),
            (0, 32),
            (1, 3),
            (1, 4),
            (0, 33),
            (0, 34),
            (0, 35),
        ],
    ),
    "stored": ((40,), {"shuffle": False}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
}
"""Orders that every release makes: a checkpoint of one is read by the next."""


@pytest.mark.parametrize("name", GOLDEN)
def test_the_order_is_that_of_other_releases(name):
    sizes, options, wanted = GOLDEN[name]
    found = [(source, image) for source, _, image in epoch_of(an_order(*sizes, **options))]
    if len(sizes) == 1:
        found = [image for _, image in found]
    assert found[:12] == wanted


@settings(deadline=None)
@given(orders())
def test_an_epoch_reads_every_image_once(order):
    n = order.n_samples
    assert sorted(image for _, _, image in epoch_of(order)) == list(range(n))
    assert [len(shard_order) for shard_order in shard_orders_of(order)] == [
        order.size(shard) for shard in range(order.n_shards)
    ]
    assert n_of(order, order.all()) == n


@pytest.mark.parametrize(
    ("samples", "n_shards", "least", "most"),
    [
        (0, 1, 0, 0),
        (1, 1, 1, 1),
        (20, 1, 20, 20),
        (21, 2, 10, 11),
        (40, 2, 20, 20),
        (41, 3, 13, 14),
    ],
)
def test_shards_are_equal_and_small(samples, n_shards, least, most):
    order = an_order(samples, shard=20)
    sizes = [order.size(shard) for shard in range(order.n_shards)]
    assert (order.n_shards, min(sizes), max(sizes)) == (n_shards, least, most)


def test_a_shard_has_as_much_of_every_source():
    order = an_order(100, 50, 7, shard=20)
    for shard in range(order.n_shards):
        by_source = Counter(source for source, _, _ in shard_order_of(order, shard))
        for source, n in enumerate((100, 50, 7)):
            assert abs(by_source[source] - n / order.n_shards) < 1


def test_what_lies_in_one_block_is_in_one_shard_or_two():
    # Two blocks of ten to a shard: none is cut.
    order = an_order(80, shard=20)
    for shard in range(4):
        runs = order.runs(shard)
        assert len(runs) == 2
        assert all(run.start % 10 == 0 and len(run) == 10 for run in runs)
    # With shards of 16, a cut at every edge at most.
    order = an_order(80, shard=16)
    assert sum(len(order.runs(shard)) for shard in range(5)) <= 8 + 4


def test_blocks_of_which_nothing_is_selected_are_passed_over():
    edges = np.array([0, 0, 10, 10, 10, 25, 25, 30, 30])
    for seed in range(8):
        assert sorted(epoch_of(an_order(edges, shard=9, seed=seed))) == [
            (0, 0, image) for image in range(30)
        ]


@settings(deadline=None)
@given(orders())
def test_a_record_is_whole_on_the_shard_order_of_a_shard(order):
    for shard in range(order.n_shards):
        runs = {(r.turn, r.start, r.stop): r for r in order.runs(shard)}
        shard_order = shard_order_of(order, shard)
        places = {image: i for i, (_, _, image) in enumerate(shard_order)}
        for run in runs.values():
            for n in records_of(run).tolist():
                images = range(max(run.start, n * RECORD), min(run.stop, (n + 1) * RECORD))
                assert [places[i] - places[images[0]] for i in images] == list(range(len(images)))


@settings(deadline=None)
@given(orders())
def test_a_sample_moves_by_less_than_the_window(order):
    for shard_slice in order.all():
        walk = order.walk(shard_slice)
        moved = np.abs(walk - np.arange(len(walk)))
        assert moved.max() < (order._window if order._shuffle else 1)


def test_samples_move_by_up_to_the_window():
    order = an_order(20_000, window=100)
    walk = order.walk(order.all()[0])
    place = np.empty_like(walk)
    place[walk] = np.arange(len(walk))
    moved = (place - np.arange(len(walk)))[100:-100]
    # A move is forward by 0..99, less the 49.5 that all move by: uniform in about -50..50, but for
    # the ends, where what moves with it blurs it.
    assert np.abs(np.histogram(moved, 10, (-50, 50))[0][1:-1] / len(moved) - 0.1).max() < 0.01


@settings(deadline=None)
@given(orders(counts=True))
def test_codes_are_moves_by_a_hash(order):
    for shard in range(order.n_shards):
        size = order.size(shard)
        key = (2, order._seed, order.epoch, shard)
        edges = [min(p + 64, (size - p + 1) // 2) for p in range(size)]
        reach = [min(order._window, e) if order._shuffle else 1 for e in edges]
        moves = [key_of(*key, p) % r for p, r in enumerate(reach)]
        wanted = [(p + moved) * 2**31 + p for p, moved in enumerate(moves)]
        assert order.codes(shard, 0, size).tolist() == wanted
        assert order.codes(shard, size // 2, size).tolist() == wanted[size // 2 :]


def test_a_shard_begins_and_ends_with_few_records():
    """A window of 1,024 alone would take 360 for a batch, and leave 510, 660 and 850 at the end."""
    order = an_order(20_000, window=1024)
    assert order.walk(order.all()[0])[:64].max() < 160
    for records, most in ((1, 60), (5, 300), (10, 560)):
        first = 20_000 - 38 * records
        left = 20_000 - np.argmax(order.walk(order.all()[0]) >= first)
        assert 38 * records <= left < most
    inside = ShardSlice(shard=0, start=5_000, stop=20_000)
    assert 250 < order.walk(inside)[:64].max() - 5_000 < 500


def test_a_window_of_one_leaves_records_together():
    order = an_order(30, window=1, block=9)
    images = [image for _, _, image in epoch_of(order)]
    firsts = images[::RECORD]
    assert images == [first + i for first in firsts for i in range(RECORD)]
    assert firsts != sorted(firsts)


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(1, 30), st.integers(0, 3))
def test_without_shuffle_the_order_is_the_stored_one(n, shard, epoch):
    order = an_order(n, shard=shard, shuffle=False, epoch=epoch)
    assert [image for _, _, image in epoch_of(order)] == list(range(n))


def test_without_shuffle_part_of_a_source_goes_on_where_it_stopped():
    images = [
        image
        for epoch in range(3)
        for _, _, image in epoch_of(an_order(9, counts=[6], shuffle=False, epoch=epoch))
    ]
    assert images == [*range(9), *range(9)]


def test_seeds_and_epochs_have_orders_of_their_own():
    found = [
        tuple(epoch_of(an_order(60, seed=seed, epoch=epoch, shard=25)))
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len({tuple(image for _, _, image in samples) for samples in found}) == 16
    again = tuple(epoch_of(an_order(60, seed=3, epoch=3, shard=25)))
    assert again == found[-1]


def test_orders_of_two_epochs_are_not_alike():
    n = 30_000
    places = []
    for epoch in range(2):
        place = np.empty(n)
        place[[image for _, _, image in epoch_of(an_order(n, epoch=epoch, window=1024))]] = range(n)
        places.append(place)
    assert abs(np.corrcoef(places)[0, 1]) < 0.05
    assert abs(np.corrcoef(places[0], np.arange(n))[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("size", "count"),
    [(12, 0), (12, 1), (12, 11), (12, 12), (12, 13), (12, 24), (12, 30), (1, 5), (7, 5)],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_read_a_source_in_whole_passes(size, count, shuffle):
    seen = Counter()
    for epoch in range(7):
        order = an_order(
            size, 20, counts=[count, 20], block=5, shard=8, epoch=epoch, shuffle=shuffle
        )
        samples = epoch_of(order)
        assert len(samples) == order.n_samples == count + 20
        of_source = [(turn, image) for source, turn, image in samples if source == 0]
        assert len(set(of_source)) == count
        seen.update(image for _, image in of_source)
        # Nothing is read again before all was read.
        times = [seen[image] for image in range(size)]
        assert max(times) - min(times) <= 1
        assert sum(times) == count * (epoch + 1)


def test_every_pass_over_a_source_has_an_order_of_its_own():
    order = an_order(60, counts=[120])
    turns = {0: [], 1: []}
    for run in order.runs(0):
        turns[run.turn].append(run.start)
    assert sorted(turns[0]) == sorted(turns[1])
    assert turns[0] != turns[1]
    samples = epoch_of(order)
    passes = [[image for _, t, image in samples if t == turn] for turn in (0, 1)]
    assert passes[0] != passes[1]


def test_sources_of_one_size_do_not_move_together():
    order = an_order(60, 60)
    orders_of = [[image for s, _, image in epoch_of(order) if s == source] for source in (0, 1)]
    assert orders_of[0] != orders_of[1]


def test_sources_are_mixed_all_along():
    order = an_order(3000, 1000, window=64)
    sources = [source for source, _, _ in epoch_of(order)]
    for start in range(0, 4000, 500):
        assert abs(sum(sources[start : start + 500]) - 125) < 60


@settings(max_examples=60, deadline=None)
@given(stopped_orders())
def test_what_is_left_of_a_shard_slice_is_what_its_definition_says(given_):
    order, slices = given_
    for s in slices:
        left = left_of(order, s)
        assert order.left(s).tolist() == left
        assert order.n_left(s) == len(left)
        assert [order.edge(s, n) for n in range(len(left))] == left
        walk = walk_of(order, s)
        assert [(s.shard, p) for p in order.walk(s).tolist()] == walk
        codes = [int(order.codes(s.shard, p, p + 1)[0]) for _, p in walk]
        assert [order.code_of(s, n) for n in range(len(left))] == codes
    assert n_of(order, slices) == len(flat(order, slices))


def test_what_is_left_is_told_apart_from_what_was_left_before():
    order = an_order(40, window=7)
    for start, stop in ((0, 40), (3, 40), (3, 9)):
        for code in order.codes(0, 0, 40).tolist():
            for after in (code, code + 1, code + 2):
                shard_slice = ShardSlice(shard=0, start=start, stop=stop, after=after)
                assert (
                    order.n_left(shard_slice)
                    == order.n_left(shard_slice)
                    == len(left_of(order, shard_slice))
                )


def test_reading_begins_with_few_records():
    order = an_order(9_000, window=64)
    first = [image // RECORD for _, _, image in epoch_of(order)[:8]]
    shard_order = [image // RECORD for _, _, image in shard_order_of(order, 0)[:64]]
    assert set(first) <= set(shard_order)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, None),
        ({"window": 0}, "shuffle_window must be an integer of at least 1, got 0"),
        ({"window": 2**24}, None),
        ({"window": 2**24 + 1}, "shuffle_window must be at most 16777216, got 16777217"),
        ({"window": 1.5}, "shuffle_window must be an integer of at least 1, got 1.5"),
        ({"window": "4"}, "shuffle_window must be an integer of at least 1, got '4'"),
        ({"seed": 0}, None),
        ({"seed": 2**64 - 1}, None),
        ({"seed": 2**64}, "seed must be at most 18446744073709551615, got 18446744073709551616"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": "1"}, "seed must be an integer of at least 0, got '1'"),
        ({"seed": True}, "seed must be an integer of at least 0, got True"),
        ({"seed": np.int64(1)}, None),
        ({"epoch": 2**62}, None),
        ({"epoch": 2**62 + 1}, "epoch must be at most 4611686018427387904, got"),
        ({"epoch": -1}, "epoch must be an integer of at least 0, got -1"),
        ({"epoch": 1.0}, "epoch must be an integer of at least 0, got 1.0"),
        ({"shuffle": False}, None),
        ({"shuffle": 1}, "shuffle must be true or false, got 1"),
        ({"shuffle": "no"}, "shuffle must be true or false, got 'no'"),
        ({"shuffle": None}, "shuffle must be true or false, got None"),
        ({"counts": [0]}, None),
        ({"counts": [-1]}, "an epoch cannot read -1 of 9 images"),
    ],
)
def test_options_that_are_none(options, message):
    if message is None:
        assert len(epoch_of(an_order(9, **options))) == options.get("counts", [9])[0]
    else:
        with pytest.raises(OptionError, match=message):
            an_order(9, **options)


def test_nothing_can_be_read_of_an_empty_source():
    assert epoch_of(an_order(0, counts=[0])) == []
    assert len(epoch_of(an_order(0, 5, counts=[0, 5]))) == 5
    with pytest.raises(OptionError, match="an epoch cannot read 1 of 0 images"):
        an_order(0, counts=[1])


def test_the_keys_of_crops_are_of_the_sample_and_not_of_its_place():
    images = np.arange(12)
    order = an_order(12, counts=[30], epoch=1, shard=8)
    found = {}
    for shard in range(order.n_shards):
        for run in order.runs(shard):
            inside = images[run.start : run.stop]
            for image, key in zip(inside, order.crop_keys(run, inside).tolist(), strict=True):
                found[run.turn, int(image)] = key
    assert len(set(found.values())) == len(found) == 30
    # Epoch 1 goes from image 30 of an endless shard_order to image 60: turns 2, 3 and 4.
    for (turn, image), key in found.items():
        assert key == key_of(3, 0, 1, 0, turn - 2, image)


def test_another_seed_epoch_source_or_repeat_makes_other_crops():
    images = np.array([0, 5])
    base = {"seed": 0, "epoch": 0, "source": 0, "repeat": 0}
    keys = set(crop_keys(images=images, **base).tolist())
    for name in base:
        keys |= set(crop_keys(images=images, **{**base, name: 1}).tolist())
    assert len(keys) == 10


def test_runs_have_lengths():
    assert len(Run(source=0, turn=0, start=3, stop=8)) == 5


def test_the_size_of_shards_does_not_change():
    # A checkpoint says where an epoch stopped in shards of this size.
    order = EpochOrder(
        [edges_of(2**18 + 1, 2**16)],
        [2**18 + 1],
        seed=0,
        epoch=0,
        shuffle=True,
        window=1024,
    )
    assert order.all() == [
        ShardSlice(shard=0, start=0, stop=2**17),
        ShardSlice(shard=1, start=0, stop=2**17 + 1),
    ]
    with shards_of(2**18 + 1):
        assert an_order(2**18 + 1).n_shards == 1
