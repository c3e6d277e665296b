"""A cache of scan groups on a local disk, for all processes of a host.

    cache     Cache, DatasetCache   what readers call: get, put, discard; failing disks only warn
    folder    CacheFolder           files up to a limit: whole or not at all, counted exactly
    eviction  Eviction              entries that nobody reads any more
    ledger    Ledger                one file: the folder's mark, its lock, the bytes in use
    files                           names of files, and a walk over them

    get --> found --> the reader checks the checksum; where it is wrong: discard, read the store
        --> None  --> read the store, put --> lock, count, temporary | write | lock, rename

Guarantees: the files never exceed the limit (but for a crash of the host, see `folder`); a process
that is killed at any point leaves a cache that works; no failure of the disk is an error of the
reader's.

A job that reads 20 GB in every epoch, with a limit of 10 GB: the first epoch finds nothing and
fills the cache, every later one finds 10 GB of its 20 (a plain LRU cache would find 2.8 GB).
"""

from pcrstore.storage.cache.cache import Cache, CacheWarning, DatasetUsage, Usage

__all__ = [
    "Cache",
    "CacheWarning",
    "DatasetUsage",
    "Usage",
]
