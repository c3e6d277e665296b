"""An open dataset: find a version, read its index on demand, plan reads, check what comes.

    open            store ──▶ newest version ──▶ Dataset
    versions        manifests: list, read, and commit one exactly once
    dataset         Dataset: columns, plan, fetch, read, iter
    sample          the samples that iteration yields
    filters         conditions on columns ──▶ masks (pure)
    reader          positions or records ──▶ wants ──▶ checked cells or files
    planner         wants ──▶ requests; bodies ──▶ checked cells of each image (pure)
    index_reader    parts, record tables, columns and headers, remembered
    fetch           range reads: coalesced, counted, repeated where they come damaged

    Dataset.fetch([7, 8], 3) ──Reader──▶ wants ──planner──▶ requests ──store──▶ bodies
                                 │ places of records                              │
                            IndexReader                       files ◀──joined── cells, checked

A want is the images of one record that are asked for: all of them at one fidelity, read as a prefix
(`WantedPrefix`), or some, each at its own, read cell by cell (`WantedCells`).

This release writes version 1 of a dataset and no later one; readers open the newest there is, or an
older one by its number.

Opening reads the manifest alone. Every byte is checked before it is handed out, by the checksum of
its cell, page or directory; bytes that fail are read again, `fetch.ATTEMPTS` times in all, and are
then a `ChecksumError` that names the object. The requests of `Dataset.plan` are exactly those that
`Dataset.fetch` makes. All of this works from several threads and after a fork.

Example: `ds.plan([0, 1, 3], fidelity=2)`, where record 0 has images 0 to 3, is one request for the
cells of groups 1 and 2 of three images, read over the fourth's; the bytes are worked out in
`planner`. All four images are one request for a prefix of the record.
"""

from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.fetch import Counter, fetch_ranges, get_ranges
from pcrstore.dataset.filters import Where, conditions_of
from pcrstore.dataset.index_reader import IndexReader, Part
from pcrstore.dataset.open import dataset_in, open_dataset
from pcrstore.dataset.planner import ReadPlan, WantedCells
from pcrstore.dataset.reader import Reader, RecordSelection
from pcrstore.dataset.sample import Sample, Traffic
from pcrstore.dataset.versions import (
    commit,
    list_versions,
    new_writer_id,
    newest_version,
    read_manifest,
    write_hint,
)

__all__ = [
    "Counter",
    "Dataset",
    "IndexReader",
    "Part",
    "ReadPlan",
    "Reader",
    "RecordSelection",
    "Sample",
    "Traffic",
    "WantedCells",
    "Where",
    "commit",
    "conditions_of",
    "dataset_in",
    "fetch_ranges",
    "get_ranges",
    "list_versions",
    "new_writer_id",
    "newest_version",
    "open_dataset",
    "read_manifest",
    "write_hint",
]
