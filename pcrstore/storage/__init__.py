"""Stores of named, immutable objects: opened by URL, read by range, tried again, cached on disk.

    open        a URL or a store --> the store that reads it best
    protocol    the protocol of stores: `ReadableStore`, `Store`, and names that all of them take
    local       folders: atomic writes, no requests
    remote      retries, fan-out and errors over a client's coroutines, for two engines:
      obstore_store    obstore, and how it ends and forks
      fsspec_store     fsspec, and file systems without coroutines
      fsspec_client    file systems opened, looked through and limited
      fsspec_whole     whole objects, never more of them than was asked for
      options          fsspec's options translated for obstore
    forking     a store for a process and the workers that it forks
    retry       when a request is tried again, and when not
    errors      a library's error --> ours, retryable or not; redact: without credentials
    cache/      bodies of ranges on a local disk

A read of two ranges, one of which fails once with 503:

    get_ranges([a, b]) --> client.get_range(a) --> body, as long as its range
                       --> client.get_range(b) --> 503 --> `errors`: worth another try
                                                       --> `retry`: wait 0..0.1 s
                           client.get_range(b) --> body
                       <-- [body of a, body of b]             n_retries == 1

Every store guarantees, and `pcrstore.testing.contract` checks:

- One request for each range: never merged, never split. A body of another length never comes back.
- A whole object is read up to the size that its reader takes, and no further.
- A reader sees a whole object or none. Of several writers that create one name, one wins.
- Errors are `StoreError`s that name the object; no message and no traceback has a credential in it.
- Threads may share a store, a forked child may go on with it, a pickle opens the same place.

Examples:
    >>> from pcrstore.core import ByteRange
    >>> store = open_store("memory://wing/photos")
    >>> store.create("manifests/1", b"first"), store.create("manifests/1", b"second")
    (True, False)
    >>> store.get_ranges([ByteRange("manifests/1", 0, 2), ByteRange("manifests/1", 2, 5)])
    [b'fi', b'rst']
    >>> store.shared_by_processes
    False
    >>> store.delete([entry.name for entry in store.list("")])
"""

from pcrstore.storage.cache import Cache, CacheWarning, DatasetUsage, Usage
from pcrstore.storage.forking import ForkingStore
from pcrstore.storage.obstore_store import ForkedObstoreWarning
from pcrstore.storage.open import Engine, checked_url, open_store, store_of
from pcrstore.storage.protocol import (
    Bodies,
    Entries,
    Entry,
    RangeCache,
    ReadableStore,
    Sizes,
    Store,
    check_name,
    probe_conditional_create,
    too_large,
)
from pcrstore.storage.retry import RetryPolicy

__all__ = [
    "Bodies",
    "Cache",
    "CacheWarning",
    "DatasetUsage",
    "Engine",
    "Entries",
    "Entry",
    "ForkedObstoreWarning",
    "ForkingStore",
    "RangeCache",
    "ReadableStore",
    "RetryPolicy",
    "Sizes",
    "Store",
    "Usage",
    "check_name",
    "checked_url",
    "open_store",
    "probe_conditional_create",
    "store_of",
    "too_large",
]
