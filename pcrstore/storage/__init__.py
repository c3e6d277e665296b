"""The storage wing."""

from pcrstore.storage.cache import CacheWarning
from pcrstore.storage.forking import ForkingStore
from pcrstore.storage.local import LocalStore
from pcrstore.storage.obstore_store import ForkedObstoreWarning
from pcrstore.storage.open import Engine, checked_url, open_store, store_of
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
from pcrstore.storage.retry import RetryPolicy

__all__ = [
    "Bodies",
    "CacheWarning",
    "Engine",
    "Entries",
    "Entry",
    "ForkedObstoreWarning",
    "ForkingStore",
    "LocalStore",
    "RangeCache",
    "ReadableStore",
    "RetryPolicy",
    "Store",
    "check_name",
    "checked_url",
    "open_store",
    "probe_conditional_create",
    "store_of",
]
