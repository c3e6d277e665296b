"""Exports: the images of a dataset written out in other forms.

    folder    one file per image, named by its key

    dataset ──fetch (runs of records)──▶ JPEG files or originals ──safe_name──▶ folder

Keys are names from a bucket, and not trusted: every file lands inside the folder.

Example: a key with a part that would leave the folder, and one that
Windows takes for a device.

    >>> from pcrstore.exports.folder import safe_name
    >>> safe_name("../cat.jpg"), safe_name("com1/cat.jpg")
    ('%2E%2E/cat.jpg', '%63om1/cat.jpg')
"""

from pcrstore.exports.folder import ExportReport, export

__all__ = [
    "ExportReport",
    "export",
]
