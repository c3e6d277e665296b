"""The cache wing."""

from pcrstore.storage.cache.cache import Cache, DatasetUsage, Usage

__all__ = [
    "Cache",
    "DatasetUsage",
    "Usage",
]
