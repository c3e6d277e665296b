"""Read a dataset in PyTorch: a loader that yields batches, and two datasets for torch's own.

    from pcrstore.torch import Loader

    loader = Loader("s3://bucket/photos", batch_size=256, fidelity=3)
    for epoch in range(90):
        loader.set_epoch(epoch)
        for images, labels in loader:          uint8 (N, 3, 224, 224), int64 (N,)
            ...

    Loader            batches, fetched, decoded and collated in threads of this process, or in
                      num_workers processes; splits itself by rank; resumes; counts
    IterableDataset   single samples for torch's DataLoader and torchdata's StatefulDataLoader
    MapDataset        random access for samplers

    loader         `Loader`: a `BaseLoader` of tensors, over threads or workers
    workers        the worker processes of `Loader`: the share that each reads, its batches in
                   shared memory
    iterable       `IterableDataset`: the share of a rank and a worker, sample by sample
    shared_cursor  the epoch cursor that an `IterableDataset` shares with its workers
    map_style      `MapDataset`: any samples, read by one plan
    distributed    rank of this process, and its share of the threads
    open           stores of a process whose workers may be forked

    Loader(num_workers=0)      streams in this process ──────────────────────────▶ tensors
    Loader(num_workers=4)      4 x (one stream ──▶ shared memory) ──in turn──────▶ tensors
    DataLoader(IterableDataset, num_workers=4)   4 x (one stream ──▶ samples ──▶ collate)

Guarantees:

- Ranks and workers read an epoch once between them, and a `Loader` that was stopped goes on with
  other numbers of both, to the sample.
- Every iteration reads the next epoch, unless one is set or a state was loaded; an iteration that
  has yielded nothing does not count. `pcrstore.loader.cursor` has the rules.
- An epoch and a fidelity that are set reach the workers that there are.

`distributed` alone reads the environment, as torchrun sets it: RANK and WORLD_SIZE where
torch.distributed is not initialised and no argument says otherwise; LOCAL_WORLD_SIZE, or
MASTER_ADDR without it, to divide the cores of a host among its ranks where `n_threads` is None.
"""

from pcrstore.torch.iterable import IterableDataset
from pcrstore.torch.loader import Loader
from pcrstore.torch.map_style import MapDataset

__all__ = ["IterableDataset", "Loader", "MapDataset"]
