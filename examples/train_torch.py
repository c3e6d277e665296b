"""Train on low fidelity and validate on full fidelity, both from one dataset in a bucket.

    python examples/train_torch.py PHOTOS [EPOCHS]

PHOTOS has PHOTOS/train/<class>/*.jpg and PHOTOS/validation/<class>/*.jpg. The bucket is an S3
server in this process (moto), so that everything stays on this machine:
pip install 'pcrstore[demo,torch]'.
"""

import logging
import sys

import boto3
import torch
from moto.server import ThreadedMotoServer
from torch import nn

import pcrstore
from pcrstore.torch import Loader


def network(n_classes: int) -> nn.Module:
    """Return a small convolutional network."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, n_classes))


def train(model: nn.Module, loader: Loader, optimizer: torch.optim.Optimizer) -> float:
    """Train for an epoch; return the mean loss."""
    total, n_images = 0.0, 0
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images / 127.5 - 1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, n_images = total + loss.item() * len(labels), n_images + len(labels)
    return total / n_images


@torch.no_grad()
def accuracy(model: nn.Module, loader: Loader) -> float:
    """Return the share of images whose class the model finds."""
    found = torch.cat([model(images / 127.5 - 1).argmax(1) == labels for images, labels in loader])
    return found.float().mean().item()


def main(photos: str, url: str, options: dict[str, object], epochs: int) -> None:
    """Convert, then train."""
    pcrstore.convert(
        photos, url, pcrstore.Options(split_dirs=True, policy="skip"), destination_options=options
    )
    ds = pcrstore.open(url, storage_options=options)
    validation = next(split for split in ds.splits if split.startswith("val"))
    print(f"{len(ds)} images, {len(ds.classes)} classes, splits {', '.join(ds.splits)}")

    training = Loader(ds, batch_size=32, size=64, fidelity=2, where={"split": "train"})
    testing = Loader(ds, size=64, fidelity="full", where={"split": validation}, shuffle=False)
    torch.manual_seed(0)
    model = network(len(ds.classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        before = training.stats().bytes, testing.stats().bytes
        training.set_epoch(epoch)
        loss = train(model, training, optimizer)
        share = accuracy(model, testing)
        trained = training.stats().bytes - before[0]
        tested = testing.stats().bytes - before[1]
        print(
            f"epoch {epoch}: loss {loss:.3f}, validation accuracy {share:.1%}; "
            f"{trained / 1e6:.2f} MB moved to train, {tested / 1e6:.2f} MB to validate"
        )
    print(f"training at fidelity 2: {training.stats()}")
    print(f"validation at full fidelity: {testing.stats()}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "demo", "aws_secret_access_key": "demo"}
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    s3.create_bucket(Bucket="photos")
    access = {"endpoint_url": endpoint, "key": "demo", "secret": "demo"}
    main(sys.argv[1], "s3://photos/dataset", access, int((sys.argv[2:] or ["5"])[0]))
    server.stop()
