"""Sources of images: where `convert` gets the files that it makes a dataset of.

    base           the interface: a source lists its files, and reads one
    folder         class-per-folder trees, on a local disk or at any URL that fsspec opens
    local_files    the local files that a source may open, and what is wrong with the others

A new source is one new module here, or one class in a user's program; `convert` takes its instance.
"""

from pcrstore.conversion.sources.base import Listing, Source, SourceFile
from pcrstore.conversion.sources.folder import FolderSource

__all__ = ["FolderSource", "Listing", "Source", "SourceFile"]
