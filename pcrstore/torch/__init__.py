"""Read a dataset in PyTorch: a loader that yields batches, and two datasets for torch's own.

    from pcrstore.torch import Loader

    loader = Loader("s3://bucket/photos", batch_size=256, fidelity=3)
    for epoch in range(90):
        loader.set_epoch(epoch)
        for images, labels in loader:          uint8 (N, 3, 224, 224), int64 (N,)
            ...

    Loader            fetches, decodes and collates in threads of this process, or in num_workers
                      processes; splits itself by rank; resumes; tells what it did
    IterableDataset   single samples for torch's DataLoader and torchdata's StatefulDataLoader
    MapDataset        random access for samplers

`processes` reads the environment, and nothing else does: RANK, WORLD_SIZE and LOCAL_WORLD_SIZE, as
torchrun sets them, and MASTER_ADDR, where torch.distributed is not initialised and no argument says
otherwise.
"""

from pcrstore.torch.iterable import IterableDataset
from pcrstore.torch.loader import Loader
from pcrstore.torch.map_style import MapDataset

__all__ = ["IterableDataset", "Loader", "MapDataset"]
