"""Sources of images: where `convert` gets the files that it makes a dataset of.

base      the interface: a source lists its files, and reads one
folder    class-per-folder trees, on a local disk or at any URL that fsspec opens
"""

from pcrstore.conversion.sources.base import Listing, Source, SourceFile
from pcrstore.conversion.sources.folder import FolderSource

__all__ = ["FolderSource", "Listing", "Source", "SourceFile"]
