"""What the drivers of map-style peers share: samples to rows, and the settings of a loader."""

from collections.abc import Callable, Iterable

import torch

from benchmarks.peers.client import Asked, Countable
from benchmarks.peers.transform import Transform


def photos_of(base: type, asked: Asked) -> type:
    """Return a peer's dataset class whose samples are a row and a class id."""
    transform = Transform(asked.size)

    class Photos(base):
        def __getitem__(self, at: object) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(at)
            return torch.from_numpy(transform(sample["jpg"])), sample["cls"]

    return Photos


def batches_of(
    loader: Callable[..., Iterable[tuple[Countable, object]]], photos: object, asked: Asked
) -> Iterable[tuple[Countable, object]]:
    """Return a peer's loader, with persistent workers."""
    return loader(
        photos,
        batch_size=asked.batch_size,
        num_workers=asked.num_workers,
        persistent_workers=True,
    )
