"""The storage wing."""

from pcrstore.storage.forking import ForkingStore
from pcrstore.storage.local import LocalStore
from pcrstore.storage.open import Engine, checked_url, open_store
from pcrstore.storage.protocol import (
    Bodies,
    Entries,
    Entry,
    RangeCache,
    ReadableStore,
    Store,
    check_name,
    probe_conditional_create,
)

__all__ = [
    "Bodies",
    "Engine",
    "Entries",
    "Entry",
    "ForkingStore",
    "LocalStore",
    "RangeCache",
    "ReadableStore",
    "Store",
    "check_name",
    "checked_url",
    "open_store",
    "probe_conditional_create",
]
