"""Ranks and workers read an epoch once between them, however often it is stopped and by whom."""

from collections import Counter
from itertools import pairwise, product

import pytest
from epochs import RECORD, an_order, flat, read, shard_orders_of, stopped_orders, walk_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.errors import OptionError
from pcrstore.sampling.order import EpochOrder, ShardSlice
from pcrstore.sampling.sharding import EpochPartition, Topology, cut, n_of, skip

RANKS = (1, 2, 3, 8)
WORKERS = (0, 1, 4)
"""Of a loader; none is one process too."""
BATCHES = (1, 5, 64)


def topology(ranks=1, workers=0, batch=1, uneven="pad", *, drop_last=False):
    """Return a topology as a loader makes it."""
    return Topology(
        world_size=ranks,
        n_workers=max(1, workers),
        batch_size=batch,
        uneven=uneven,
        drop_last=drop_last,
    )


TOPOLOGIES = st.builds(
    topology,
    st.sampled_from(RANKS),
    st.sampled_from(WORKERS),
    st.integers(1, 9) | st.just(64),
    st.sampled_from(["pad", "drop"]),
    drop_last=st.booleans(),
)


class Played:
    """A partition read to its end: the batches of every rank, and how many samples are real."""

    def __init__(self, partition, shard_orders):
        t, at = partition.topology, 0
        left = n_of(partition.order, partition.slices)
        self.batches = [[None] * partition.n_batches for _ in range(t.world_size)]
        self.n_real = [[0] * partition.n_batches for _ in range(t.world_size)]
        for rank, worker in product(range(t.world_size), range(t.n_workers)):
            samples = read(partition.order, shard_orders, partition.share(rank, worker))
            sizes = partition.batch_sizes(worker)
            assert len(samples) == sum(sizes)
            # All but what stands behind what was left is padding.
            n_real = min(len(samples), max(0, left - at))
            at += len(samples)
            start = 0
            for i, size in enumerate(sizes):
                number = worker + i * t.n_workers
                assert self.batches[rank][number] is None
                self.batches[rank][number] = samples[start : start + size]
                self.n_real[rank][number] = min(size, max(0, n_real - start))
                start += size

    def until(self, n):
        """Return the samples of the first n batches of all ranks."""
        return [x for batches in self.batches for batch in batches[:n] for x in batch]

    def real(self, start=0, stop=None):
        """Return those of batches start..stop that are no padding."""
        return [
            x
            for batches, n_real in zip(self.batches, self.n_real, strict=True)
            for batch, r in zip(batches[start:stop], n_real[start:stop], strict=True)
            for x in batch[:r]
        ]


def check(partition, shard_orders):
    """Check a partition that is read to its end; return it played."""
    t, left = partition.topology, read(partition.order, shard_orders, partition.slices)
    played = Played(partition, shard_orders)
    for batches in played.batches:
        assert len(batches) == partition.n_batches
        sizes = list(map(len, batches))
        assert sizes[:-1] == [t.batch_size] * (partition.n_batches - 1)
        if sizes:
            assert 1 <= sizes[-1] <= t.batch_size
            assert sizes[-1] == t.batch_size or not t.drop_last
        assert sum(sizes) == partition.n_per_rank
    seen = Counter(played.until(partition.n_batches))
    assert set(seen) <= set(left)
    assert sum(seen.values()) - len(seen) == partition.n_padded
    assert len(left) - len(seen) == partition.n_dropped
    assert partition.n_padded < t.world_size
    assert partition.n_dropped < t.world_size * (t.batch_size if t.drop_last else 1)
    assert not (
        partition.n_padded if t.uneven == "drop" else partition.n_dropped and not t.drop_last
    )
    assert sorted(played.real()) == sorted(seen)
    return played


@pytest.mark.parametrize("uneven", ["pad", "drop"])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("ranks", RANKS)
def test_every_sample_is_read_once_but_for_padding_and_dropping(ranks, workers, drop_last, uneven):
    for n, batch in product((1, 7, 8, 97), BATCHES):
        order = an_order(n, shard=40)
        t = topology(ranks, workers, batch, uneven, drop_last=drop_last)
        check(EpochPartition(order, order.all(), t), shard_orders_of(order))


COUNTS = {
    # samples, ranks, batch, uneven, drop_last: of each rank, padded, dropped, batches of each rank
    "none": ((0, 3, 4, "pad", False), (0, 0, 0, 0)),
    "one-padded": ((1, 3, 4, "pad", False), (1, 2, 0, 1)),
    "one-dropped": ((1, 3, 4, "drop", False), (0, 0, 1, 0)),
    "one-below-even": ((11, 3, 4, "pad", False), (4, 1, 0, 1)),
    "even": ((12, 3, 4, "pad", False), (4, 0, 0, 1)),
    "one-above-even": ((13, 3, 4, "pad", False), (5, 2, 0, 2)),
    "one-below-even-drop": ((11, 3, 4, "drop", False), (3, 0, 2, 1)),
    "even-drop": ((12, 3, 4, "drop", False), (4, 0, 0, 1)),
    "one-above-even-drop": ((13, 3, 4, "drop", False), (4, 0, 1, 1)),
    "full-by-padding": ((11, 3, 4, "pad", True), (4, 1, 0, 1)),
    "last-full": ((12, 3, 4, "pad", True), (4, 0, 0, 1)),
    "last-not-full": ((13, 3, 4, "pad", True), (4, 0, 1, 1)),
    "last-not-full-drop": ((11, 3, 4, "drop", True), (0, 0, 11, 0)),
    "last-full-drop": ((14, 3, 4, "drop", True), (4, 0, 2, 1)),
    "one-below-batch": ((3, 1, 4, "pad", False), (3, 0, 0, 1)),
    "batch": ((4, 1, 4, "pad", False), (4, 0, 0, 1)),
    "one-above-batch": ((5, 1, 4, "pad", False), (5, 0, 0, 2)),
    "more-ranks-than-samples": ((3, 8, 4, "pad", False), (1, 5, 0, 1)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_on_each_side_of_even(name):
    (n, ranks, batch, uneven, drop_last), wanted = COUNTS[name]
    order = an_order(n)
    partition = EpochPartition(
        order, order.all(), topology(ranks, 0, batch, uneven, drop_last=drop_last)
    )
    assert (
        partition.n_per_rank,
        partition.n_padded,
        partition.n_dropped,
        partition.n_batches,
    ) == wanted
    check(partition, shard_orders_of(order))


@pytest.mark.parametrize(
    ("n", "workers", "batch", "wanted"),
    [
        (0, 2, 4, [[], []]),
        (1, 2, 4, [[1], []]),
        (4, 2, 4, [[4], []]),
        (5, 2, 4, [[4], [1]]),
        (8, 2, 4, [[4], [4]]),
        (9, 2, 4, [[4, 1], [4]]),
        (16, 3, 4, [[4, 4], [4], [4]]),
        (22, 3, 4, [[4, 4], [4, 4], [4, 2]]),
    ],
)
def test_workers_take_turns_in_whole_batches(n, workers, batch, wanted):
    order = an_order(n)
    partition = EpochPartition(order, order.all(), topology(1, workers, batch))
    assert [partition.batch_sizes(worker) for worker in range(workers)] == wanted


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 2)), min_size=1, max_size=3),
    st.integers(3, 60),
    st.sampled_from([1, 3, 16, 1000]),
    st.booleans(),
    st.lists(TOPOLOGIES, min_size=1, max_size=4),
    st.data(),
)
def test_an_epoch_stopped_anywhere_goes_on_with_any_readers(
    sources, shard, window, shuffle, topologies, data
):
    sizes = [size for size, _ in sources]
    counts = [round(size * share) for size, share in sources]
    order = an_order(
        *sizes, counts=counts, shard=shard, window=window, shuffle=shuffle, epoch=1, block=7
    )
    shard_orders, slices = shard_orders_of(order), order.all()
    seen, real, n_padded, n_dropped = Counter(), Counter(), 0, 0
    left = set(read(order, shard_orders, slices))
    for i, t in enumerate(topologies):
        partition = EpochPartition(order, slices, t)
        played = check(partition, shard_orders)
        last = i == len(topologies) - 1
        n = partition.n_batches if last else data.draw(st.integers(0, partition.n_batches))
        seen.update(played.until(n))
        real.update(played.real(0, n))
        n_padded += partition.n_padded
        left -= set(played.real(0, n))
        if n and n == partition.n_batches:  # at its end what it drops is dropped for good
            n_dropped += partition.n_dropped
            left.clear()
        slices = partition.left_after(n)
        assert sorted(read(order, shard_orders, slices)) == sorted(left)
        assert n or slices == partition.slices
    assert set(seen) <= {x for shard_order in shard_orders for x in shard_order}
    assert set(real.values()) <= {1}
    # A partition may drop what one before, stopped early, has read for padding.
    assert order.n_samples - len(real) == n_dropped + len(left)
    assert len(seen) >= len(real)
    assert sum(seen.values()) - len(seen) <= n_padded


@settings(deadline=None)
@given(st.integers(1, 200), TOPOLOGIES, st.integers(2, 50))
def test_ranks_read_records_of_their_own_but_at_cuts(n, t, shard):
    order = an_order(n, shard=shard, block=9)
    shard_orders = shard_orders_of(order)
    partition = EpochPartition(order, order.all(), t)
    readers = [(r, w) for r in range(t.world_size) for w in range(t.n_workers)]
    touched = Counter()
    at = 0
    for rank, worker in readers:
        share = partition.share(rank, worker)
        n_real = max(0, min(n_of(order, share), n - at))
        at += n_of(order, share)
        # Padding reads what others read: look only at shares without.
        if n_real == n_of(order, share):
            touched.update({image // RECORD for _, _, image in read(order, shard_orders, share)})
    whole = -(-n // RECORD)
    assert sum(touched.values()) <= whole + len(readers) - 1 + order.n_shards - 1


@settings(deadline=None)
@given(st.integers(0, 90), TOPOLOGIES, st.integers(1, 50))
def test_what_an_epoch_reads_does_not_depend_on_who_reads(n, t, shard):
    order = an_order(n, shard=shard)
    shard_orders = shard_orders_of(order)
    partition = EpochPartition(order, order.all(), t)
    if partition.n_dropped:
        return
    readers = product(range(t.world_size), range(t.n_workers))
    found = {x for r, w in readers for x in read(order, shard_orders, partition.share(r, w))}
    alone = EpochPartition(order, order.all(), topology())
    assert found == set(read(order, shard_orders, alone.share(0, 0)))


def test_one_reader_reads_the_order_as_it_is():
    order = an_order(50, shard=20)
    partition = EpochPartition(order, order.all(), topology(1, 0, 8))
    shard_orders = shard_orders_of(order)
    assert read(order, shard_orders, partition.share(0, 0)) == read(
        order, shard_orders, order.all()
    )
    # Stopped and resumed, too.
    for n in range(partition.n_batches + 1):
        rest = EpochPartition(order, partition.left_after(n), topology(1, 0, 3))
        assert (
            read(order, shard_orders, rest.share(0, 0))
            == read(order, shard_orders, order.all())[n * 8 :]
        )


@settings(deadline=None)
@given(
    st.integers(0, 120),
    st.builds(
        topology,
        st.sampled_from(RANKS),
        batch=st.integers(1, 9),
        uneven=st.sampled_from(["pad", "drop"]),
        drop_last=st.booleans(),
    ),
    st.data(),
)
def test_a_partition_resumed_as_it_was_yields_the_same_batches_in_one_process(n, t, data):
    order = an_order(n, shard=40)
    shard_orders = shard_orders_of(order)
    partition = EpochPartition(order, order.all(), t)
    stopped = data.draw(st.integers(0, max(0, partition.n_batches - 1)))
    rest = EpochPartition(order, partition.left_after(stopped), t)
    assert rest.n_batches == partition.n_batches - stopped
    wanted, got = check(partition, shard_orders), check(rest, shard_orders)
    padded = len(wanted.until(stopped)) - len(wanted.real(stop=stopped))
    assert (rest.n_padded, rest.n_dropped) == (partition.n_padded - padded, partition.n_dropped)
    # Padding is what a partition begins with: another one has another.
    assert got.real() == wanted.real(stopped)
    if not partition.n_padded:
        assert got.batches == [batches[stopped:] for batches in wanted.batches]


def test_without_shuffle_ranks_read_the_stored_order_one_after_the_other():
    order = an_order(12, shuffle=False)
    partition = EpochPartition(order, order.all(), topology(2, 2, 2))
    shard_orders = shard_orders_of(order)
    shares = [
        [image for _, _, image in read(order, shard_orders, partition.share(rank, worker))]
        for rank in range(2)
        for worker in range(2)
    ]
    # Three batches of each rank: two of its worker 0, one of its worker 1.
    assert shares == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11]]


def test_padding_that_was_read_before_a_stop_is_not_read_again():
    order = an_order(17)
    t = topology(8, 0, 1)
    partition = EpochPartition(order, order.all(), t)
    # Three each: five ranks read their own, one has two of them, two read padding alone.
    assert (partition.n_per_rank, partition.n_padded) == (3, 7)
    rests = [EpochPartition(order, partition.left_after(n), t) for n in range(4)]
    assert [n_of(order, rest.slices) for rest in rests] == [17, 11, 5, 0]
    assert [rest.n_batches for rest in rests] == [3, 2, 1, 0]
    assert [rest.n_padded for rest in rests] == [7, 5, 3, 0]


def test_padding_reads_the_first_samples_again():
    order = an_order(2, shuffle=False)
    partition = EpochPartition(order, order.all(), topology(8, 0, 1))
    shard_orders = shard_orders_of(order)
    images = [read(order, shard_orders, partition.share(rank, 0))[0][2] for rank in range(8)]
    assert images == [0, 1] * 4
    assert partition.left_after(1) == []


DROPPED = {
    # samples, ranks, batch, uneven, drop_last: dropped, left after each number of batches
    "none": ((12, 2, 2, "drop", False), 0, [12, 8, 4, 0]),
    "one": ((11, 2, 2, "drop", False), 1, [11, 7, 3, 0]),
    "not-full": ((11, 2, 2, "pad", True), 0, [11, 7, 3, 0]),
    "not-full-batch": ((13, 1, 4, "pad", True), 1, [13, 9, 5, 0]),
    "batches": ((17, 2, 3, "drop", True), 5, [17, 11, 0]),
    "all": ((5, 2, 3, "drop", True), 5, [5]),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_a_partition_drops_is_left_until_its_end(name):
    (n, ranks, batch, uneven, drop_last), dropped, wanted = DROPPED[name]
    order = an_order(n)
    partition = EpochPartition(
        order, order.all(), topology(ranks, 0, batch, uneven, drop_last=drop_last)
    )
    assert partition.n_dropped == dropped
    assert [n_of(order, partition.left_after(i)) for i in range(partition.n_batches + 1)] == wanted


def test_one_reader_reads_what_ranks_that_stopped_would_have_dropped():
    order = an_order(250)
    shard_orders = shard_orders_of(order)
    stopped = EpochPartition(order, order.all(), topology(3, 0, 8, "drop", drop_last=True))
    rest = EpochPartition(order, stopped.left_after(1), topology(1, 0, 8))
    assert (stopped.n_dropped, rest.n_dropped) == (10, 0)
    seen = Played(stopped, shard_orders).until(1) + Played(rest, shard_orders).until(rest.n_batches)
    assert sorted(seen) == sorted(read(order, shard_orders, order.all()))


@pytest.mark.parametrize("n", [-1, 0, 3, 4])
def test_so_many_batches_can_have_been_yielded(n):
    order = an_order(11)
    partition = EpochPartition(order, order.all(), topology(1, 0, 4))
    if n in (0, 3):
        assert n_of(order, partition.left_after(n)) == 11 - min(11, 4 * n)
    else:
        with pytest.raises(OptionError, match=rf"batches yielded must be in 0\.\.3, got {n}"):
            partition.left_after(n)


@pytest.mark.parametrize(
    ("rank", "worker", "ok"),
    [(0, 0, True), (1, 2, True), (2, 0, False), (0, 3, False), (-1, 0, False), (0, -1, False)],
)
def test_ranks_and_workers_are_those_of_the_topology(rank, worker, ok):
    order = an_order(30)
    partition = EpochPartition(order, order.all(), topology(2, 3))
    if ok:
        assert n_of(order, partition.share(rank, worker)) == 5
    else:
        with pytest.raises(
            OptionError,
            match=f"rank and worker must be below 2 and 3, got {rank} and {worker}",
        ):
            partition.share(rank, worker)


@pytest.mark.parametrize("name", ["world_size", "n_workers", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None])
def test_counts_of_a_topology_are_positive_integers(name, value):
    assert getattr(Topology(**{name: 1}), name) == 1
    with pytest.raises(OptionError, match=f"{name} must be a positive integer, got {value!r}"):
        Topology(**{name: value})


LIMITS = {
    "readers": ({"world_size": 2**12, "n_workers": 2**4}, None),
    "ranks": ({"world_size": 2**16}, None),
    "workers": ({"n_workers": 2**16}, None),
    "ranks-over": (
        {"world_size": 2**16 + 1},
        "at most 65536 workers on all ranks, got 1 on 65537",
    ),
    "workers-over": ({"n_workers": 2**16 + 1}, "at most 65536 workers on all ranks"),
    "readers-over": ({"world_size": 2**12, "n_workers": 2**4 + 1}, "got 17 on 4096"),
    "ranks-endless": ({"world_size": 10**30}, "at most 65536 workers on all ranks"),
    "batch": ({"batch_size": 2**31 - 1}, None),
    "batch-over": ({"batch_size": 2**31}, "batch_size must be at most 2147483647, got 2147483648"),
    "drop-last": ({"drop_last": True}, None),
    "drop-last-number": ({"drop_last": 1}, "drop_last must be true or false, got 1"),
    "drop-last-text": ({"drop_last": "no"}, "drop_last must be true or false, got 'no'"),
    "drop-last-none": ({"drop_last": None}, "drop_last must be true or false, got None"),
}


@pytest.mark.parametrize(("options", "says"), LIMITS.values(), ids=LIMITS)
def test_a_topology_has_limits(options, says):
    if says is None:
        assert Topology(**options)
    else:
        with pytest.raises(OptionError, match=says):
            Topology(**options)


@pytest.mark.parametrize("uneven", ["pad", "drop", "keep", ""])
def test_what_is_uneven_is_padded_or_dropped(uneven):
    if uneven in ("pad", "drop"):
        assert Topology(uneven=uneven).uneven == uneven
    else:
        with pytest.raises(OptionError, match=f'uneven must be "pad" or "drop", got {uneven!r}'):
            Topology(uneven=uneven)


def test_a_large_epoch_is_shared_out_without_walking_it(monkeypatch):
    # 100 million images: whoever walks all of them waits for seconds.
    n = 100_000_000
    order = an_order(n, block=2**16, window=1024)
    walked = []
    codes = EpochOrder.codes

    def counted(self, shard, start, stop):
        walked.append(stop - start)
        return codes(self, shard, start, stop)

    monkeypatch.setattr(EpochOrder, "codes", counted)
    partition = EpochPartition(order, order.all(), topology(64, 4, 64))
    share = partition.share(63, 3)
    assert walked == []
    assert isinstance(share[0], ShardSlice)
    rest = EpochPartition(order, partition.left_after(partition.n_batches // 2), partition.topology)
    rest.share(63, 3)
    assert sum(walked) < 5_000_000


# ---- slices that are cut and skipped


@settings(max_examples=60, deadline=None)
@given(stopped_orders(), st.data())
def test_a_cut_shares_out_the_shard_order(given_, data):
    order, slices = given_
    shard_order = flat(order, slices)
    edges = sorted(data.draw(st.lists(st.integers(0, len(shard_order)), min_size=1, max_size=5)))
    sizes = [b - a for a, b in pairwise([0, *edges])]
    shares = cut(order, slices, sizes)
    assert [flat(order, share) for share in shares] == [
        shard_order[a:b] for a, b in pairwise([0, *edges])
    ]
    # What a reader reads of its share depends on its share alone.
    for share in shares:
        walks = [w for s in share for w in walk_of(order, s)]
        assert [(s.shard, int(p)) for s in share for p in order.walk(s)] == walks


@settings(max_examples=60, deadline=None)
@given(stopped_orders(), st.data())
def test_skipping_leaves_the_rest_in_order(given_, data):
    order, slices = given_
    walk = [w for s in slices for w in walk_of(order, s)]
    n = data.draw(st.integers(0, len(walk)))
    rest = skip(order, slices, n)
    assert [w for s in rest for w in walk_of(order, s)] == walk[n:]
    m = data.draw(st.integers(0, len(walk) - n))
    again = skip(order, rest, m)
    assert [w for s in again for w in walk_of(order, s)] == walk[n + m :]


@settings(max_examples=60, deadline=None)
@given(stopped_orders(), st.integers(1, 3))
def test_more_than_there_is_can_be_neither_cut_nor_skipped(given_, more):
    order, slices = given_
    n = n_of(order, slices)
    assert n_of(order, cut(order, slices, [n])[0]) == n
    assert n_of(order, skip(order, slices, n)) == 0
    with pytest.raises(OptionError, match=f"{more} samples are missing of {n + more} asked for"):
        cut(order, slices, [n + more])
    with pytest.raises(OptionError, match=f"{more} samples too few"):
        skip(order, slices, n + more)


def test_cuts_divide_records_only_where_they_are():
    order = an_order(90, shard=50)
    shard_orders = shard_orders_of(order)
    shares = cut(order, order.all(), [20, 20, 20, 20, 10])
    touched = Counter()
    for share in shares:
        touched.update({(image // RECORD) for _, _, image in read(order, shard_orders, share)})
    # 30 records, four cuts, and one edge of shards at which a record may be divided too.
    assert sum(touched.values()) <= 30 + 4 + 1
    assert max(touched.values()) <= 2


def test_a_cut_at_the_edge_of_a_shard_leaves_nothing_empty():
    order = an_order(90, shard=45)
    assert cut(order, order.all(), [45, 45]) == [[shard_slice] for shard_slice in order.all()]
    assert cut(order, order.all(), [0, 90]) == [[], order.all()]
    assert skip(order, order.all(), 45) == order.all()[1:]


@pytest.mark.parametrize(
    ("n_batches", "expected"),
    [(0, [0, 0]), (1, [2, 0]), (2, [2, 2]), (3, [3, 2]), (None, [3, 2])],
)
def test_workers_share_the_first_batches_of_a_rank_in_turn(n_batches, expected):
    """5 samples in batches of 2 for 2 workers: 2 and 1 for worker 0, 2 for worker 1."""
    order = an_order(5)
    partition = EpochPartition(order, order.all(), topology(1, 2, 2, "pad"))
    assert [partition.n_samples(worker, n_batches) for worker in (0, 1)] == expected
