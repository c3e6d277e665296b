"""Every sample selected is read once, from the records that hold it, whatever the selection."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from epochs import shards_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import PART, a_dataset

from pcrstore.core.hashing import uniforms
from pcrstore.errors import OptionError
from pcrstore.loader.pipeline import Pipeline, Spec
from pcrstore.sampling.lookup import Mix, SampleSet, SelectedDataset, mix_of
from pcrstore.sampling.order import ShardSlice, cut, n_of, skip

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


def check(population, order, stretch, known=PLACES):
    """Compare a leaflet with what the index says of its samples, one by one."""
    leaflet = population.leaflet(order, stretch)
    n = len(leaflet)
    assert n == order.n_left(stretch)
    first_use = {}
    for i in range(n):
        unit = leaflet.units[leaflet.unit[i]]
        first_use.setdefault(int(leaflet.unit[i]), i)
        source, image = int(leaflet.source[i]), int(leaflet.image[i])
        p, r, slot, size, number = known[source][image]
        assert (unit.source, unit.part, unit.record, unit.number) == (source, p, r, number)
        assert unit.images[leaflet.slot[i]] == image
        if unit.slots is None:
            assert len(unit.images) == size
            assert slot == leaflet.slot[i]
        else:
            assert len(unit.slots) == len(unit.images) < size
            assert unit.slots[leaflet.slot[i]] == slot
    assert [u.first_use for u in leaflet.units] == [first_use[i] for i in range(len(first_use))]
    assert [u.first_use for u in leaflet.units] == sorted(u.first_use for u in leaflet.units)
    assert sum(len(u.images) for u in leaflet.units) == n
    return leaflet


def read(population, order, stretches):
    """(source, image) of all samples, in order."""
    out = []
    for stretch in stretches:
        leaflet = check(population, order, stretch)
        out += list(zip(leaflet.source.tolist(), leaflet.image.tolist(), strict=True))
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
    population = SampleSet(sources, [len(s) for s in sources])
    with shards_of(shard):
        order = population.order(seed=seed, epoch=epoch, shuffle=shuffle, window=window)
        whole = order.all()
        edges = np.linspace(0, order.n_samples, n_cuts + 1).astype(int)
        shares = cut(order, whole, np.diff(edges).tolist())
        got = [sample for share in shares for sample in read(population, order, share)]
        # Where reading stops, it goes on with the sample that would have been next.
        rest = skip(order, shares[-1], (edges[-1] - edges[-2]) // 2)
        n_rest = n_of(order, rest)
        assert read(population, order, rest) == got[len(got) - n_rest :]
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
    population = SampleSet(sources, counts)
    seen = [np.zeros(N, int), np.zeros(7, int)]
    with shards_of(shard):
        for epoch in range(3):
            order = population.order(seed=seed, epoch=epoch, shuffle=True, window=4)
            got = read(population, order, order.all())
            for s in (0, 1):
                mine = [image for source, image in got if source == s]
                assert len(mine) == counts[s]
                np.add.at(seen[s], mine, 1)
                assert np.ptp(seen[s]) <= 1


def test_a_repeat_within_an_epoch_is_cropped_anew():
    population = SampleSet([SelectedDataset(dataset=DATASETS[1])], [21])
    order = population.order(seed=0, epoch=0, shuffle=True, window=4)
    leaflet = check(population, order, order.all()[0], PLACES[1:])
    keys = {}
    for image, key in zip(leaflet.image.tolist(), leaflet.crop_key.tolist(), strict=True):
        keys.setdefault(image, set()).add(key)
    assert {len(of_image) for of_image in keys.values()} == {3}
    assert uniforms(leaflet.crop_key, 2).min() >= 0


def test_parts_and_records_are_read_near_each_other():
    """Without a window to speak of, a record's images follow each other, and a part's records."""
    source = SelectedDataset(dataset=DATASETS[0])
    assert source.blocks().tolist() == [0, PART, 2 * PART, 3 * PART, N]
    population = SampleSet([source], [N])
    order = population.order(seed=3, epoch=0, shuffle=True, window=1)
    leaflet = check(population, order, order.all()[0])
    records = leaflet.unit.tolist()
    assert records == sorted(records)
    assert all(u.slots is None for u in leaflet.units)
    assert len(leaflet.units) == DATASETS[0].n_records


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


def test_a_stretch_of_nothing_is_an_empty_leaflet():
    population = SampleSet([SelectedDataset(dataset=DATASETS[0])], [N])
    order = population.order(seed=0, epoch=0, shuffle=True, window=4)
    leaflet = population.leaflet(order, ShardSlice(shard=0, start=4, stop=4))
    assert (len(leaflet), leaflet.units) == (0, [])


def test_nothing_selected_is_refused():
    with pytest.raises(OptionError, match="no image is selected"):
        SampleSet([SelectedDataset(dataset=DATASETS[0], positions=np.empty(0, np.int64))], [0])


# ---- mixes and selections, as a loader makes them

MIXES = {
    "nothing": (lambda: Mix({}), "one dataset"),
    "weight-0": (lambda: Mix({"a": 0}), "over 0"),
    "weight-negative": (lambda: Mix({"a": 1, "b": -1}), "over 0"),
    "weight-endless": (lambda: Mix({"a": float("inf")}), "over 0"),
    "weight-none": (lambda: Mix({"a": float("nan")}), "over 0"),
    "list": (lambda: Mix(["a"]), "mapping of datasets to weights, got a list"),
    "text": (lambda: Mix("a"), "mapping of datasets to weights, got a str"),
    "nothing-at-all": (lambda: Mix(None), "mapping of datasets to weights, got a NoneType"),
    "number-for-a-dataset": (lambda: Mix({"a": 1, 1: 1}), "open dataset, got a int"),
    "bytes-for-a-dataset": (lambda: Mix({b"a": 1}), "open dataset, got a bytes"),
    "list-for-a-dataset": (lambda: mix_of(["a"]), "open dataset, got a list"),
    "none-for-a-dataset": (lambda: mix_of(None), "open dataset, got a NoneType"),
    "weight-text": (lambda: Mix({"a": "1"}), "a weight must be a number, got '1'"),
    "weight-boolean": (lambda: Mix({"a": True}), "a weight must be a number, got True"),
    "weight-missing": (lambda: Mix({"a": 1, "b": None}), "a weight must be a number, got None"),
    "size-0": (lambda: Mix({"a": 1}, epoch_size=0), "epoch_size must be .* at least 1, got 0"),
    "size-text": (lambda: Mix({"a": 1}, epoch_size="5"), "epoch_size must be .*, got '5'"),
    "size-fraction": (lambda: Mix({"a": 1}, epoch_size=10.5), "epoch_size must be .*, got 10.5"),
    "size-boolean": (lambda: Mix({"a": 1}, epoch_size=True), "epoch_size must be .*, got True"),
    "size-over": (lambda: Mix({"a": 1}, epoch_size=2**40 + 1), "at most 1099511627776, got"),
}


@pytest.mark.parametrize(("make", "says"), MIXES.values(), ids=MIXES)
def test_mixes_that_are_none(make, says):
    with pytest.raises(OptionError, match=says):
        make()


@pytest.mark.parametrize("size", [1, np.int64(7), 2**40])
def test_a_mix_may_have_any_integer_for_a_size(size):
    mix = Mix({"a": 1, Path("b"): np.float32(2), DATASETS[0]: 3}, epoch_size=size)
    assert (type(mix.epoch_size), mix.epoch_size) == (int, size)


@pytest.mark.parametrize("data", ["a", Path("a"), DATASETS[0]], ids=["url", "path", "open"])
def test_one_dataset_is_a_mix_of_itself(data):
    mix = mix_of(data)
    assert mix == Mix({data: 1.0})
    assert mix_of(mix) is mix


COUNTS = {
    "even": ((1, 1), None, [14, 13]),
    "as-they-are": ((20, 7), None, [20, 7]),
    "much-of-the-small": ((1, 9), None, [3, 24]),
    "sized": ((3, 1), 8, [6, 2]),
    "small": ((1, 1), 2, [1, 1]),
    "long": ((1, 1), 100, [50, 50]),
}


@pytest.mark.parametrize(("weights", "size", "expected"), COUNTS.values(), ids=COUNTS)
def test_counts_follow_weights(weights, size, expected):
    mix = Mix(dict(zip(DATASETS[:2], weights, strict=True)), epoch_size=size)
    assert list(Pipeline(Spec(dataset=mix)).population.counts) == expected


def test_a_dataset_that_an_epoch_would_leave_out_is_refused():
    with pytest.raises(OptionError, match="none of a dataset"):
        Pipeline(Spec(dataset=Mix({DATASETS[0]: 1000, DATASETS[1]: 1}, epoch_size=100)))


def test_one_dataset_may_have_an_epoch_size():
    loading = Pipeline(Spec(dataset=Mix({DATASETS[0]: 2.0}, epoch_size=50)))
    assert loading.order(0).n_samples == 50


def positions_of(**more):
    [source] = Pipeline(Spec(**{"dataset": DATASETS[0], **more})).population.sources
    return list(range(N)) if source.positions is None else source.positions.tolist()


SELECTED = {
    "all": ({}, list(range(N))),
    "every": ({"select": range(N)}, list(range(N))),
    "some": ({"select": [3, 9, 4]}, [3, 4, 9]),
    "array": ({"select": np.array([19, 0], np.uint8)}, [0, 19]),
    "where": ({"where": {"split": "val"}}, list(range(13, 20))),
    "where-two": ({"where": {"split": "train", "label": ["cat"]}}, list(range(7))),
    "where-and-select": ({"where": {"label": "cat"}, "select": [2, 8, 15]}, [2, 15]),
    "none-opaque": ({"opaque": "skip"}, list(range(N))),
}


@pytest.mark.parametrize(("options", "expected"), SELECTED.values(), ids=SELECTED)
def test_what_is_selected(options, expected):
    assert positions_of(**options) == expected


REFUSED = {
    "mask": ({"select": np.ones(N, bool)}, "flatnonzero"),
    "ragged": ({"select": [[1], [2, 3]]}, "select must be positions, got list"),
    "fractions": ({"select": [0.5]}, "positions"),
    "table": ({"select": [[1, 2]]}, "positions"),
    "twice": ({"select": [1, 2, 1]}, "no image twice, got 1"),
    "over": ({"select": [0, N]}, r"0\.\.19, got 0\.\.20"),
    "under": ({"select": [-1, 3]}, r"0\.\.19, got -1\.\.3"),
    "nothing": ({"select": []}, "no image is selected"),
    "nothing-found": ({"where": {"label": -1}}, "no image is selected"),
    "no-such-column": ({"where": {"colour": 1}}, "column must be"),
    "where-text": ({"where": "cat"}, "where must be a mapping"),
    "where-list": ({"where": ["label"]}, "where must be a mapping"),
    "where-nothing": ({"where": ""}, "where must be a mapping"),
    "where-zero": ({"where": 0}, "where must be a mapping"),
    "where-by-number": ({"where": {1: 2}}, "where must name columns"),
    "where-argument": ({"where": {"self": 1}}, "column must be"),
    "dataset": ({"dataset": None}, "open dataset, got a NoneType"),
    "datasets": ({"dataset": [DATASETS[0]]}, "open dataset, got a list"),
    "no-such-class": ({"where": {"label": "cow"}}, "label must be one of cat, dog"),
    "opaque": ({"opaque": "drop"}, "opaque must be"),
    "seed": ({"seed": -1}, "seed"),
    "window": ({"shuffle_window": 0}, "window"),
    "prefetch": ({"prefetch": "much"}, "size"),
    "size": ({"size": 0}, "size"),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_options_that_cannot_be_used(options, says):
    with pytest.raises(OptionError, match=says):
        positions_of(**options)


def test_positions_are_of_one_dataset():
    with pytest.raises(OptionError, match="in a mix use where"):
        Pipeline(Spec(dataset=Mix({DATASETS[0]: 1, DATASETS[1]: 1}), select=[0]))


def test_opaque_files_are_left_out_unless_they_are_asked_for():
    ds = a_dataset(n=N, opaque=(4, 11), text=(7,))
    forms = ds.column("format").tolist()
    opaque = [i for i, form in enumerate(forms) if form == 1]
    assert len(opaque) == 3

    def found(**more):
        [source] = Pipeline(Spec(dataset=ds, **more)).population.sources
        return list(range(N)) if source.positions is None else source.positions.tolist()

    assert found() == list(range(N))
    assert found(opaque="skip") == [i for i in range(N) if i not in opaque]
    assert found(opaque="skip", where={"format": "opaque"}) == opaque
