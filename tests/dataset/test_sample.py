"""A sample has the file that was read and what the index says of its image."""

import pytest
from small_datasets import a_dataset

from pcrstore.dataset.sample import samples_of


def test_samples_have_the_columns_of_their_images():
    ds = a_dataset(opaque=(4,))
    [png] = ds.find(format="opaque").tolist()
    first, last = samples_of(ds.index, ds.splits, [png, 0], [b"png", b"jpeg"], 3)
    assert (first.index, first.jpeg, first.format, first.fidelity) == (png, b"png", "opaque", 3)
    assert (last.index, last.jpeg, last.format) == (0, b"jpeg", "jpeg")
    assert [first.key, last.key] == ds.column("key", [png, 0])
    assert [first.label, last.label] == ds.labels[[png, 0]].tolist()
    assert [s.key.split("/")[0] for s in (first, last)] == [first.split, last.split]


def test_without_split_folders_a_sample_has_no_split():
    ds = a_dataset()
    [sample] = samples_of(ds.index, (), [0], [b""], 1)
    assert sample.split is None


@pytest.mark.parametrize("n_files", [0, 2])
def test_a_file_too_few_or_many_is_an_error(n_files):
    ds = a_dataset()
    with pytest.raises(ValueError, match="zip"):
        samples_of(ds.index, ds.splits, [0], [b""] * n_files, 1)
