"""The sampling wing."""

from pcrstore.sampling.lookup import Mix, ReadList, RecordRead, SampleSet, SelectedDataset, mix_of
from pcrstore.sampling.order import MAX_EPOCH, EpochOrder, ShardSlice, crop_keys, skip
from pcrstore.sampling.sharding import EpochPartition, Topology, Uneven

__all__ = [
    "MAX_EPOCH",
    "EpochOrder",
    "EpochPartition",
    "Mix",
    "ReadList",
    "RecordRead",
    "SampleSet",
    "SelectedDataset",
    "ShardSlice",
    "Topology",
    "Uneven",
    "crop_keys",
    "mix_of",
    "skip",
]
