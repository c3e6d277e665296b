"""The maintenance wing."""

from pcrstore.maintenance.verifier import Fault, VerifyReport, verify

__all__ = [
    "Fault",
    "VerifyReport",
    "verify",
]
