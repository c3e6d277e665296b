"""Lightning's Trainer stops in the middle of an epoch and goes on: each sample once in it."""

import logging

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torch_data import N, converted, of_loader, singles
from torchdata.stateful_dataloader import StatefulDataLoader

from pcrstore.torch import IterableDataset, Loader

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice, and what torch deprecates

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 40 images."""
    return converted(tmp_path_factory.mktemp("lightning"))


class Model(lightning.LightningModule):
    """Notes each batch that it is trained on, with its epoch."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.seen = []

    def training_step(self, batch, _):
        images, *rest = batch
        self.seen.append((self.current_epoch, images, *rest))
        return self.layer(images.float().mean((2, 3))).sum() * 0

    def validation_step(self, batch, _):
        self.layer(batch[0].float().mean((2, 3)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def epoch(self, epoch):
        """Return the batches of an epoch."""
        return [batch for e, *batch in self.seen if e == epoch]


def trained(loader, folder, *, ckpt=None, every=None, validation=None, **options):
    """Return a model that was trained, and its last checkpoint."""
    callbacks = []
    if every:
        callbacks = [ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1)]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(every),
        callbacks=callbacks,
        default_root_dir=folder,
        **options,
    )
    model = Model()
    # The checkpoint is our own: it may hold more than weights.
    trainer.fit(model, loader, validation, ckpt_path=ckpt, weights_only=False)
    return model, max(folder.glob("*.ckpt"), default=None)


def a_loader(url, num_workers):
    return Loader(url, 4, size=16, num_workers=num_workers, positions=True)


def positions(batches):
    return [p for *_, of_batch in batches for p in of_batch.tolist()]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_are_those_of_a_plain_loop(url, tmp_path, num_workers):
    model, _ = trained(
        a_loader(url, num_workers), tmp_path, max_epochs=2, validation=a_loader(url, 0)
    )
    plain = a_loader(url, num_workers)
    assert [positions(model.epoch(e)) for e in range(2)] == [positions(plain) for _ in range(2)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("steps", [3, 10, 13, 20])
def test_a_training_that_was_stopped_goes_on_to_the_sample(url, tmp_path, num_workers, steps):
    """An epoch is 10 steps."""
    first, ckpt = trained(
        a_loader(url, num_workers), tmp_path, every=steps, max_steps=steps, max_epochs=4
    )
    second, _ = trained(a_loader(url, num_workers), tmp_path, ckpt=ckpt, max_epochs=4)
    assert len(first.seen) == steps
    plain = a_loader(url, num_workers)
    for epoch in range(4):
        got = positions(first.epoch(epoch)) + positions(second.epoch(epoch))
        assert sorted(got) == list(range(N))
        want = positions(plain)
        if num_workers < 2:  # else what is left is shared out anew
            assert got == want


@pytest.mark.parametrize("num_workers", [0, 2])
def test_single_samples_in_torchs_loader_are_another_epoch_each_time(url, tmp_path, num_workers):
    loader = DataLoader(IterableDataset(url, size=16), 4, num_workers=num_workers)
    model, _ = trained(loader, tmp_path, max_epochs=3)
    for epoch in range(3):
        assert sorted(singles(model.epoch(epoch))) == of_loader(url, epoch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_loader_goes_on_to_the_sample(url, tmp_path, num_workers):
    def loader():
        ds = IterableDataset(url, size=16)
        return StatefulDataLoader(ds, batch_size=4, num_workers=num_workers)

    first, ckpt = trained(loader(), tmp_path, every=13, max_steps=13, max_epochs=3)
    second, _ = trained(loader(), tmp_path, ckpt=ckpt, max_epochs=3)
    epochs = [sorted(singles(first.epoch(e) + second.epoch(e))) for e in range(3)]
    assert epochs == [of_loader(url, e) for e in range(3)]
