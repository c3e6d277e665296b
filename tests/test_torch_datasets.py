"""What both datasets for torch's own loaders have in common."""

import copy

import numpy as np
import pytest

import pcrstore
from pcrstore import CenterCrop, OptionError

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402 - only where torch is installed
from torch_data import N, converted, of_loader  # noqa: E402 - as above

from pcrstore.torch import IterableDataset, MapDataset  # noqa: E402 - as above


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    return converted(tmp_path_factory.mktemp("torch"))


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


@pytest.mark.parametrize("kind", [IterableDataset, MapDataset])
def test_wrong_options_are_named(url, kind):
    with pytest.raises(OptionError, match="epoch"):
        kind(url).set_epoch(-1)
    with pytest.raises(OptionError, match="size"):
        kind(url, size=0)
    with pytest.raises(OptionError, match="n_threads"):
        kind(url, n_threads=0)
    with pytest.raises(pcrstore.FidelityError):
        kind(url, fidelity=99)
    ds = kind(url)
    with pytest.raises(pcrstore.FidelityError):
        ds.fidelity = 99
    assert ds.fidelity in (3, "full")


@pytest.mark.parametrize("kind", [IterableDataset, MapDataset])
@pytest.mark.parametrize("epoch", [1.0, "1", None, True])
def test_an_epoch_is_an_integer(url, kind, epoch):
    ds = kind(url, 1, 8)
    with pytest.raises(OptionError, match="epoch must be an integer"):
        ds.set_epoch(epoch)
    ds.set_epoch(np.int32(1))


def test_datasets_can_be_copied(url):
    for made in (IterableDataset(url, 1, 8), MapDataset(url, 1, 8)):
        made.set_epoch(2)
        again = copy.deepcopy(made)
        made.set_epoch(3)
        assert again._epoch.value == 2
        assert len(again) == N
        assert again.classes == made.classes
