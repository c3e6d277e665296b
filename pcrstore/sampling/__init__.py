"""Sampling: the order of an epoch, and each reader's share of it.

The permutation of an epoch is never held in memory: the place of a sample is a function of (seed,
epoch, position). So each process computes the slice that it reads, and a checkpoint is a few
numbers.

    selection   a dataset and the images of it that are read
    mix         several datasets as one, by weight: the samples of each in an epoch
    order       samples ──▶ shards of 2^18 ──▶ records in hashed order ──▶ each sample moved on
                by less than the window, less at the ends of a shard; pure
    sharding    the slices left of an epoch ──▶ ranks ──▶ workers, equal to the sample, and what is
                left after n batches; pure
    lookup      a slice ──▶ the records to fetch, and the samples in reading order

Guarantees:

- The order depends on seed, epoch, selection and window alone: not on ranks, workers or batches,
  nor on the release, for a checkpoint of one release is resumed by the next.
- An epoch reads each sample once, but for at most `world_size - 1` padded or dropped ones and, with
  `drop_last`, the rest of a batch.
- A stopped epoch goes on with any number of readers, to the sample.
- Memory and time of a reader grow with its share, not with the dataset.

Two ranks of one worker each read 12 images, in records of 3, in batches of 2:

    >>> import numpy as np
    >>> order = EpochOrder([np.array([0, 12])], [12], seed=0, epoch=0, shuffle=True, window=4)
    >>> [run] = order.runs(0)
    >>> order.order_of_records([run], [np.arange(4)])
    array([1, 2, 0, 3])
    >>> images = np.array([3, 4, 5, 6, 7, 8, 0, 1, 2, 9, 10, 11])  # of these records
    >>> partition = EpochPartition(order, order.all(), Topology(world_size=2, batch_size=2))
    >>> [images[order.walk(s)].tolist() for rank in (0, 1) for s in partition.share(rank, 0)]
    [[3, 5, 4, 6, 8, 7], [0, 1, 2, 9, 10, 11]]
    >>> [images[order.walk(s)].tolist() for s in partition.left_after(1)]
    [[4, 6, 8, 7], [2, 9, 10, 11]]
"""

from pcrstore.sampling.lookup import ReadList, RecordRead, SampleSet
from pcrstore.sampling.mix import Mix, counts_of, mix_of, same_classes
from pcrstore.sampling.order import MAX_EPOCH, EpochOrder, ShardSlice, crop_keys
from pcrstore.sampling.selection import Selection, select_images
from pcrstore.sampling.sharding import EpochPartition, Topology, Uneven, skip

__all__ = [
    "MAX_EPOCH",
    "EpochOrder",
    "EpochPartition",
    "Mix",
    "ReadList",
    "RecordRead",
    "SampleSet",
    "Selection",
    "ShardSlice",
    "Topology",
    "Uneven",
    "counts_of",
    "crop_keys",
    "mix_of",
    "same_classes",
    "select_images",
    "skip",
]
