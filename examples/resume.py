"""Stop training in the middle of an epoch, and go on from a checkpoint with other workers.

    python examples/resume.py DATASET

DATASET is a path or URL that was converted before. The checkpoint holds the model, the optimizer
and the loader's state; the second run has another number of workers, and reads what the first did
not.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from pcrstore.torch import Loader


def train(url: str, checkpoint: Path, num_workers: int, part: float) -> list[int]:
    """Train for a part of what is left of the epoch; return which images were seen."""
    torch.manual_seed(0)
    loader = Loader(url, batch_size=8, size=64, num_workers=num_workers, positions=True)
    head = nn.Linear(192, len(loader.classes))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), head)
    optimizer = torch.optim.Adam(model.parameters())
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    left = f"{loader.n_left} of {len(loader)} batches left"
    print(f"{num_workers} workers: epoch {loader.epoch}, {left}")
    most = max(1, round(part * loader.n_left))

    seen: list[int] = []
    for n, (images, labels, positions) in enumerate(loader, 1):
        loss = nn.functional.cross_entropy(model(images / 127.5 - 1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += positions.tolist()
        if n == most:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),
            }
            torch.save(state, checkpoint)
            break
    print(f"{num_workers} workers: saw {len(seen)} images")
    return seen


def main(url: str) -> None:
    """Train in two runs and count what both saw."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        seen = train(url, checkpoint, 2, 0.5)
        seen += train(url, checkpoint, 1, 1.0)
    times = Counter(Counter(seen).values())
    print(f"{times[1]} images were seen exactly once, {len(seen)} in all")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
