"""Train with DistributedDataParallel on two ranks of this machine; each reads its own half.

    python examples/train_ddp.py DATASET [EPOCHS]

DATASET is a path or URL that was converted before. Nobody tells the loaders their rank: they ask
torch.distributed (or read what torchrun sets). On GPUs nothing changes but the backend.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from pcrstore.torch import Loader

RANKS = 2


def run(rank: int, url: str, epochs: int, meeting: str) -> None:
    """Train as one rank."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    loader = Loader(url, size=64, batch_size=32, fidelity=2, positions=True)
    torch.manual_seed(0)
    model = DistributedDataParallel(
        nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(512, len(loader.classes)),
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        losses, mine = [], set()
        for images, labels, positions in loader:
            loss = nn.functional.cross_entropy(model(images / 127.5 - 1), labels)
            optimizer.zero_grad()
            loss.backward()  # waits for the other rank: unequal counts of batches would hang here
            optimizer.step()
            losses.append(loss.detach())
            mine.update(positions.tolist())
        mean = torch.stack(losses).mean()
        distributed.all_reduce(mean)
        everyone: list[tuple[int, set[int]]] = [(0, set())] * RANKS
        distributed.all_gather_object(everyone, (len(losses), mine))
        if rank == 0:
            batches, (first, second) = zip(*everyone, strict=True)
            print(
                f"epoch {epoch}: loss {mean / RANKS:.3f}; batches {batches}, "
                f"images {len(first)} and {len(second)}, {len(first & second)} in both "
                f"({loader.n_padded} read twice), {len(first | second)} in all"
            )
    # Gloo's threads free the tensors of a collective a moment after its result is there. A rank
    # that ends before they have is aborted (pytorch/pytorch#179291): here they get that moment.
    distributed.barrier()
    distributed.destroy_process_group()


def main(url: str, epochs: int) -> None:
    """Start the ranks and wait for them."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        multiprocessing.spawn(run, (url, epochs, meeting), nprocs=RANKS)
    print("both ranks are done")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], int((sys.argv[2:] or ["3"])[0]))
