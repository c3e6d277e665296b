"""Samples, which iteration yields, and the counters of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pcrstore.dataset.index_reader import IndexReader
from pcrstore.format import FORMATS

__all__ = ["Sample", "Traffic", "samples_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image as iteration yields it."""

    index: int
    """Position in the dataset."""
    key: str
    label: int
    """Class id; -1 for none."""
    split: str | None
    """Split folder that the image came from; None without splits."""
    jpeg: bytes = field(repr=False)
    """A JPEG of the fidelity asked for; the source file itself when `format` is `opaque`."""
    format: str
    """`jpeg`; `encoded`: a JPEG made from another format; `opaque`: a file kept as it was."""
    fidelity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests and bytes of a dataset object so far."""

    index_requests: int
    index_bytes: int
    data_requests: int
    data_bytes: int


def samples_of(
    index: IndexReader,
    splits: Sequence[str],
    images: Sequence[int],
    files: Sequence[bytes],
    fidelity: int,
) -> list[Sample]:
    """Return some images as samples, reading their columns from the index.

    Args:
        index: Of the dataset.
        splits: Name of each value of the column `split`.
        images: Positions in the dataset.
        files: The file of each image.
        fidelity: The group number that the files were read at.
    """
    names = ["key", "label", "format", "split"]
    columns = index.columns(names, images)
    return [
        Sample(
            index=image,
            key=str(key),
            label=int(label),
            split=splits[split] if split < len(splits) else None,
            jpeg=file,
            format=FORMATS[int(form)],
            fidelity=fidelity,
        )
        for image, file, key, label, form, split in zip(
            images, files, *(columns[name] for name in names), strict=True
        )
    ]
