"""Options of a loader open datasets and select images, or are refused."""

import numpy as np
import pytest
from small_datasets import a_dataset

from pcrstore.errors import OptionError
from pcrstore.loader.open import open_pipeline
from pcrstore.loader.options import Spec
from pcrstore.sampling.mix import Mix

N = 20
DATASETS = [a_dataset(n=N), a_dataset(n=7, seed=50)]


def test_a_mix_makes_an_epoch_of_its_counts():
    mix = Mix({DATASETS[0]: 3, DATASETS[1]: 1}, epoch_size=8)
    pipeline = open_pipeline(Spec(dataset=mix))
    assert pipeline.sample_set.counts == (6, 2)
    assert pipeline.order(0).n_samples == 8


def positions_of(**more):
    [source] = open_pipeline(Spec(**{"dataset": DATASETS[0], **more})).sample_set.sources
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
        open_pipeline(Spec(dataset=Mix({DATASETS[0]: 1, DATASETS[1]: 1}), select=[0]))


def test_opaque_files_are_left_out_unless_they_are_asked_for():
    ds = a_dataset(n=N, opaque=(4, 11), text=(7,))
    forms = ds.column("format").tolist()
    opaque = [i for i, form in enumerate(forms) if form == 1]
    assert len(opaque) == 3

    def found(**more):
        [source] = open_pipeline(Spec(dataset=ds, **more)).sample_set.sources
        return list(range(N)) if source.positions is None else source.positions.tolist()

    assert found() == list(range(N))
    assert found(opaque="skip") == [i for i in range(N) if i not in opaque]
    assert found(opaque="skip", where={"format": "opaque"}) == opaque
