"""The cache wing."""

from pcrstore.storage.cache.cache import Cache, CacheWarning, DatasetUsage, Usage

__all__ = [
    "Cache",
    "CacheWarning",
    "DatasetUsage",
    "Usage",
]
