"""A small dataset for tests of loaders, and what a loader yielded, written out."""

import os

from flows import photos, write_tree

import pcrstore
from pcrstore.conversion.options import Options
from pcrstore.storage.local import LocalStore
from pcrstore.torch import Loader

N = 40
FILES = photos(N)
OPTIONS = Options(record_images=3, object_bytes=20_000)

QUIET = (
    "ignore:This DataLoader will create",  # more workers than this machine has cores
    "ignore:This process .* is multi-threaded:DeprecationWarning",  # forks, from Python 3.12 on
)
"""Warnings that tests of worker processes are to ignore."""


def converted(folder):
    """Return the path of a dataset of 14 records, made in a folder."""
    pcrstore.convert(
        str(write_tree(folder / "photos", FILES)), str(folder / "ds"), OPTIONS, workers=1
    )
    return str(folder / "ds")


def samples(batches):
    """Return (position, pixels, label) of each sample of batches with positions."""
    return [
        (int(position), image.contiguous().numpy().tobytes(), int(label))
        for images, labels, positions in batches
        for image, label, position in zip(images, labels, positions, strict=True)
    ]


def singles(loader):
    """Return (pixels, label) of each sample of torch's DataLoader, in order."""
    return [
        (image.contiguous().numpy().tobytes(), int(label))
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    ]


def epoch_of(url, epoch=0, **options):
    """Return position -> (pixels, label) of an epoch, as `Loader` has it."""
    loader = Loader(url, 7, positions=True, **{"size": 16, **options})
    loader.set_epoch(epoch)
    return {position: (pixels, label) for position, pixels, label in samples(loader)}


def of_loader(url, epoch=0, **options):
    """Return (pixels, label) of the samples of an epoch, sorted."""
    return sorted(epoch_of(url, epoch, **options).values())


class LoggingStore(LocalStore):
    """Notes every range read, with the process that read it, in a file that processes share."""

    def __init__(self, root, log):
        super().__init__(root)
        self._log = log

    def get_ranges(self, ranges):
        lines = "".join(f"{os.getpid()} {r.name} {len(r)}\n" for r in ranges if len(r))
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, lines.encode())
        finally:
            os.close(fd)
        return super().get_ranges(ranges)


def logged(log):
    """Return (process, object, bytes) of each range read so far."""
    if not log.exists():
        return []
    rows = [line.rsplit(" ", 1) for line in log.read_text().splitlines()]
    return [(int(head.split(" ")[0]), head.split(" ", 1)[1], int(n)) for head, n in rows]
