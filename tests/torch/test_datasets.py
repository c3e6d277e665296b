"""What both datasets for torch's own loaders have in common."""

import copy
from multiprocessing import get_context

import numpy as np
import pytest

import pcrstore
from pcrstore import CenterCrop, OptionError

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402 - only where torch is installed
from torch_data import QUIET, N, converted, of_loader, singles  # noqa: E402 - as above

from pcrstore.torch import IterableDataset, MapDataset  # noqa: E402 - as above

pytestmark = [pytest.mark.filterwarnings(w) for w in QUIET]


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


def send_samples(ds, back):
    """Send all samples that a dataset has, and those that its workers read."""
    items = list(ds) if isinstance(ds, IterableDataset) else [ds[i] for i in range(N)]
    here = [(image.contiguous().numpy().tobytes(), label) for image, label in items]
    back.put([sorted(here), sorted(singles(DataLoader(ds, 4, num_workers=1)))])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [IterableDataset, MapDataset])
def test_a_process_to_which_it_was_sent_reads_the_same(url, kind):
    context = get_context("spawn")
    back = context.SimpleQueue()
    ds = kind(url, size=16)
    ds.set_epoch(2)
    process = context.Process(target=send_samples, args=(ds, back))
    process.start()
    there = back.get()
    process.join()
    epochs = (2, 3) if kind is IterableDataset else (2, 2)  # an iteration begins the next epoch
    assert there == [of_loader(url, epoch, **MIDDLE[kind]) for epoch in epochs]


@pytest.mark.parametrize("kind", [IterableDataset, MapDataset])
def test_a_copy_of_a_dataset_has_its_epoch_and_goes_its_own_way(url, kind):
    made = kind(url, size=16)
    made.set_epoch(2)
    again = copy.deepcopy(made)
    made.set_epoch(3)
    assert len(again) == N
    assert again.classes == made.classes
    assert sorted(singles(DataLoader(again, 7))) == of_loader(url, 2, **MIDDLE[kind])
    assert sorted(singles(DataLoader(made, 7))) == of_loader(url, 3, **MIDDLE[kind])
