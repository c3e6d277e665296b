"""Maintenance: work on a dataset as it is stored.

    verifier      every stored byte against its checksum, every rule of FORMAT.md
      rules       rules between values: of a manifest, a part, an image (pure)
      tally       sums over a version, and the places of its records (pure)
      zarr_check  Zarr metadata and side arrays against the index

    versions ──▶ manifest ──▶ index parts ──▶ records: header, groups, restore blobs ──▶ faults

Nothing is written. One index part, one record and one chunk of each side array are in memory at a
time, and 20 bytes or so for each stretch of bytes that belongs to a record. One fault does not hide
the next.

Example: a dataset of one object, in which byte 100 was changed. `verify` reads manifest, report,
index part and object, and returns one fault, which names the object.
"""

from pcrstore.maintenance.verifier import Fault, VerifyReport, verify

__all__ = [
    "Fault",
    "VerifyReport",
    "verify",
]
