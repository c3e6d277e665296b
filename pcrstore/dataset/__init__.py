"""The dataset wing."""

from pcrstore.dataset.dataset import Dataset, Sample, Traffic, dataset_in, open_dataset
from pcrstore.dataset.fetch import Counter, fetch_ranges, get_ranges
from pcrstore.dataset.filters import conditions_of
from pcrstore.dataset.index_reader import IndexReader, Part
from pcrstore.dataset.planner import Cells, ReadPlan
from pcrstore.dataset.reader import Chosen, Reader
from pcrstore.dataset.versions import (
    commit,
    keep_hint,
    list_versions,
    new_writer,
    newest_version,
    read_manifest,
)

__all__ = [
    "Cells",
    "Chosen",
    "Counter",
    "Dataset",
    "IndexReader",
    "Part",
    "ReadPlan",
    "Reader",
    "Sample",
    "Traffic",
    "commit",
    "conditions_of",
    "dataset_in",
    "fetch_ranges",
    "get_ranges",
    "keep_hint",
    "list_versions",
    "new_writer",
    "newest_version",
    "open_dataset",
    "read_manifest",
]
