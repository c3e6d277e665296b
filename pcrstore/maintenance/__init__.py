"""Maintenance: work on a dataset as it is stored.

    verifier    every stored byte is checked against a checksum

    versions ──▶ manifest ──▶ index parts ──▶ records: header, groups, restore blobs ──▶ faults

Nothing is written. Records are read in batches of about 32 MiB, so that memory does not grow with
the dataset. One fault does not hide the next.

Example: a dataset of one object, in which byte 100 was changed. `verify` reads manifest, report,
index part and object, and returns one fault, which names the object.
"""

from pcrstore.maintenance.verifier import Fault, VerifyReport, verify

__all__ = [
    "Fault",
    "VerifyReport",
    "verify",
]
