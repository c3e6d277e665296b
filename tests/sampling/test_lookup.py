"""Every sample selected is read once, from the records that hold it, whatever the selection."""

from itertools import pairwise

import numpy as np
import pytest
from epochs import shards_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import PART, a_dataset

from pcrstore.core.hashing import uniforms
from pcrstore.errors import OptionError
from pcrstore.sampling.lookup import SampleSet
from pcrstore.sampling.order import ShardSlice
from pcrstore.sampling.selection import SelectedDataset
from pcrstore.sampling.sharding import cut, n_of, skip

N = 20
DATASETS = [a_dataset(n=N), a_dataset(n=7, seed=50), a_dataset(n=1, seed=90)]


def places(ds):
    """(part, record in it, position in the record, size, number) of every image, by the index."""
    out, number = [], 0
    for p in range(len(ds.manifest.parts)):
        [part] = ds.index.parts([p])
        for r, (a, b) in enumerate(pairwise(part.image_edges.tolist())):
            out += [(p, r, i, b - a, number) for i in range(b - a)]
            number += 1
    return out


PLACES = [places(ds) for ds in DATASETS]


def check(sample_set, order, shard_slice, known=PLACES):
    """Compare a read_list with what the index says of its samples, one by one."""
    read_list = sample_set.read_list(order, shard_slice)
    n = len(read_list)
    assert n == order.n_left(shard_slice)
    first_use = {}
    for i in range(n):
        read = read_list.reads[read_list.read_index[i]]
        first_use.setdefault(int(read_list.read_index[i]), i)
        source, image = int(read_list.source[i]), int(read_list.image[i])
        p, r, slot, size, number = known[source][image]
        assert (read.source, read.part, read.record, read.number) == (source, p, r, number)
        assert read.images[read_list.slot[i]] == image
        if read.slots is None:
            assert len(read.images) == size
            assert slot == read_list.slot[i]
        else:
            assert len(read.slots) == len(read.images) < size
            assert read.slots[read_list.slot[i]] == slot
    assert [u.first_use for u in read_list.reads] == [first_use[i] for i in range(len(first_use))]
    assert [u.first_use for u in read_list.reads] == sorted(u.first_use for u in read_list.reads)
    assert sum(len(u.images) for u in read_list.reads) == n
    return read_list


def read(sample_set, order, slices):
    """(source, image) of all samples, in order."""
    out = []
    for shard_slice in slices:
        read_list = check(sample_set, order, shard_slice)
        out += list(zip(read_list.source.tolist(), read_list.image.tolist(), strict=True))
    return out


def selections(n):
    return st.none() | st.sets(st.integers(0, n - 1), min_size=1).map(
        lambda s: np.array(sorted(s), np.int64)
    )


@settings(max_examples=60, deadline=None)
@given(
    selected=st.tuples(selections(N), selections(7)),
    n_sources=st.integers(1, 3),
    shuffle=st.booleans(),
    window=st.sampled_from([1, 2, 5, 1024]),
    shard=st.sampled_from([3, 8, 2**18]),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    n_cuts=st.integers(1, 5),
)
def test_every_sample_once(selected, n_sources, shuffle, window, shard, seed, epoch, n_cuts):
    sources = [
        SelectedDataset(dataset=ds, positions=positions)
        for ds, positions in zip(DATASETS, (*selected, None), strict=True)
    ][:n_sources]
    sample_set = SampleSet(sources, [len(s) for s in sources])
    with shards_of(shard):
        order = sample_set.order(seed=seed, epoch=epoch, shuffle=shuffle, window=window)
        whole = order.all()
        edges = np.linspace(0, order.n_samples, n_cuts + 1).astype(int)
        shares = cut(order, whole, np.diff(edges).tolist())
        got = [sample for share in shares for sample in read(sample_set, order, share)]
        # Where reading stops, it goes on with the sample that would have been next.
        rest = skip(order, shares[-1], (edges[-1] - edges[-2]) // 2)
        n_rest = n_of(order, rest)
        assert read(sample_set, order, rest) == got[len(got) - n_rest :]
        assert sorted(got) == [
            (s, int(i))
            for s, source in enumerate(sources)
            for i in (range(len(source.dataset)) if source.positions is None else source.positions)
        ]
        if not shuffle and shard == 2**18:
            assert got == sorted(got)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 45), st.integers(1, 16)),
    seed=st.integers(0, 3),
    shard=st.sampled_from([5, 2**18]),
)
def test_sources_that_are_read_again_are_read_evenly(counts, seed, shard):
    sources = [SelectedDataset(dataset=ds) for ds in DATASETS[:2]]
    sample_set = SampleSet(sources, counts)
    seen = [np.zeros(N, int), np.zeros(7, int)]
    with shards_of(shard):
        for epoch in range(3):
            order = sample_set.order(seed=seed, epoch=epoch, shuffle=True, window=4)
            got = read(sample_set, order, order.all())
            for s in (0, 1):
                mine = [image for source, image in got if source == s]
                assert len(mine) == counts[s]
                np.add.at(seen[s], mine, 1)
                assert np.ptp(seen[s]) <= 1


def test_a_repeat_within_an_epoch_is_cropped_anew():
    sample_set = SampleSet([SelectedDataset(dataset=DATASETS[1])], [21])
    order = sample_set.order(seed=0, epoch=0, shuffle=True, window=4)
    read_list = check(sample_set, order, order.all()[0], PLACES[1:])
    keys = {}
    for image, key in zip(read_list.image.tolist(), read_list.crop_key.tolist(), strict=True):
        keys.setdefault(image, set()).add(key)
    assert {len(of_image) for of_image in keys.values()} == {3}
    assert uniforms(read_list.crop_key, 2).min() >= 0


def test_parts_and_records_are_read_near_each_other():
    """Without a window to speak of, a record's images follow each other, and a part's records."""
    source = SelectedDataset(dataset=DATASETS[0])
    assert source.blocks().tolist() == [0, PART, 2 * PART, 3 * PART, N]
    sample_set = SampleSet([source], [N])
    order = sample_set.order(seed=3, epoch=0, shuffle=True, window=1)
    read_list = check(sample_set, order, order.all()[0])
    records = read_list.read_index.tolist()
    assert records == sorted(records)
    assert all(u.slots is None for u in read_list.reads)
    assert len(read_list.reads) == DATASETS[0].n_records


BLOCKS = {
    "all": (None, [0, 6, 12, 18, 20]),
    "none-of-the-first": ([6, 7, 19], [0, 2, 3]),
    "none-of-the-last": ([0, 5, 6], [0, 2, 3]),
    "one": ([17], [0, 1]),
}


@pytest.mark.parametrize(("positions", "expected"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_are_the_parts_of_what_is_selected(positions, expected):
    positions = None if positions is None else np.array(positions)
    assert SelectedDataset(dataset=DATASETS[0], positions=positions).blocks().tolist() == expected


def test_a_shard_slice_of_nothing_is_an_empty_read_list():
    sample_set = SampleSet([SelectedDataset(dataset=DATASETS[0])], [N])
    order = sample_set.order(seed=0, epoch=0, shuffle=True, window=4)
    read_list = sample_set.read_list(order, ShardSlice(shard=0, start=4, stop=4))
    assert (len(read_list), read_list.reads) == (0, [])


def test_nothing_selected_is_refused():
    with pytest.raises(OptionError, match="no image is selected"):
        SampleSet([SelectedDataset(dataset=DATASETS[0], positions=np.empty(0, np.int64))], [0])
