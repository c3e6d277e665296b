"""Build one record from source files: read, transcode, verify, measure.

The worker processes of a conversion run this module. A task and its result are plain values; the
result depends on the task and the files alone, so a record is the same on any machine and worker.

    RecordTask ──read──▶ bytes ──transcode (verified)──▶ groups + restore ──▶ BuiltRecord
                  ▲         │ a file that cannot be
                  └──again──┴── two reads agree ──policy──▶ Problem (and perhaps an image)

A reply that was cut or mixed up looks like a damaged file. So a file is reported as damaged only
after a second read, made while this worker reads nothing else, has brought the same bytes.
"""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.conversion.measure import measure
from pcrstore.conversion.report import Problem
from pcrstore.conversion.sources import Source, SourceFile
from pcrstore.conversion.texts import unicode_name
from pcrstore.core import crc32c, place_words
from pcrstore.errors import (
    JpegError,
    LimitError,
    NotFoundError,
    SourceChangedError,
    TransientStoreError,
    UnsupportedJpegError,
)
from pcrstore.format import (
    COLUMNS,
    ENCODED,
    JPEG,
    MAX_KEY,
    OPAQUE,
    RESTORE_DTYPE,
    RecordImage,
    Values,
    build_record,
)
from pcrstore.image import open_plain
from pcrstore.jpeg import (
    Kind,
    Limits,
    RestoreBlob,
    Script,
    Transcoded,
    pack_blob,
    transcode,
)

__all__ = ["BuiltRecord", "RecordBuilder", "RecordTask", "encode_jpeg"]

_MAX_READS: Final = 4
"""Largest number of reads of a file until two in a row agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTask:
    """One record to build. Each sequence has one item per file."""

    ordinal: int
    """Number of the record in its object or Zarr group."""
    seed: int
    """Seed of the record's checksums; see `core.record_seed`."""
    files: tuple[SourceFile, ...]
    labels: tuple[int, ...]
    splits: tuple[int, ...]
    measured: tuple[bool, ...]
    """True for the files whose quality is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltRecord:
    """A record that is ready to be stored, and the problems with its files."""

    ordinal: int
    header: bytes
    """Empty when no image is left."""
    regions: tuple[bytes, ...]
    """Groups 1..G and the restore region."""
    restore: NDArray[np.void]
    columns: dict[str, Values]
    problems: tuple[Problem, ...]
    quality: tuple[tuple[float, ...], ...]
    """MS-SSIM at fidelity 1..G of each measured image."""
    restore_bytes: dict[str, int]
    """Bytes of restore blobs by their kind."""
    restore_images: dict[str, int]
    """Images by the kind of their restore blob."""

    @property
    def n_images(self) -> int:
        """Number of images in the record."""
        return len(self.restore)

    @property
    def n_bytes(self) -> int:
        """Size of header and regions."""
        return len(self.header) + sum(map(len, self.regions))

    @property
    def is_refused(self) -> bool:
        """True if policy `raise` met a file that cannot be transcoded losslessly."""
        return any(p.outcome == "refused" for p in self.problems)


@dataclass(slots=True)
class _Gathered:
    """The images of a record that have been added so far."""

    images: list[RecordImage] = field(default_factory=list)
    columns: dict[str, list[object]] = field(default_factory=lambda: {c.name: [] for c in COLUMNS})
    quality: list[tuple[float, ...]] = field(default_factory=list)
    bytes_by_kind: dict[str, int] = field(default_factory=dict)
    images_by_kind: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBuilder:
    """Builder of records. Picklable: each worker process gets a copy."""

    source: Source
    script: Script
    policy: str
    """Treatment of files that cannot be transcoded; one of `options.POLICIES`."""
    limits: Limits
    encode_quality: int
    """JPEG quality of policy `encode`, 1..100."""

    def build(self, task: RecordTask) -> BuiltRecord:
        """Return the record of a task.

        Raises:
            SourceChangedError: A file is gone, or its size is not the listed one.
            TransientStoreError: A file read as other bytes each time.
            StoreError: The source failed.
        """
        rows = _Gathered()
        problems: list[Problem] = []
        for i, data in enumerate(self._read(task.files)):
            problem = self._take(rows, task, i, data)
            if problem is not None:
                problems.append(problem)
        return self._finish(task, rows, problems)

    def _take(
        self, rows: _Gathered, task: RecordTask, i: int, data: bytes | JpegError
    ) -> Problem | None:
        """Add a file, or return the problem that it is."""
        f = task.files[i]
        key = unicode_name(f.key)
        if not 1 <= len(key.encode()) <= MAX_KEY:
            reason = f"the name must have 1 to {MAX_KEY} bytes, got {len(key.encode())}"
            outcome = "refused" if self.policy == "raise" else "skipped"
            return Problem(key=key, reason=reason, outcome=outcome)
        for _ in range(_MAX_READS - 1):
            fault = self._try(rows, task, i, data)
            if fault is None:
                return None
            again = data if isinstance(data, JpegError) else self._read_one(f)
            if again == data:
                if isinstance(fault, SourceChangedError):
                    raise fault
                # What a store says of a file may hold its name, which need be no text.
                return self._apply_policy(rows, task, i, data, unicode_name(str(fault)))
            data = again
        if self._try(rows, task, i, data) is None:
            return None
        raise TransientStoreError(
            f"{self.source.url}: {f.key}: expected the same bytes twice, got others each time in "
            f"{_MAX_READS} reads"
        )

    def _try(
        self, rows: _Gathered, task: RecordTask, i: int, data: bytes | JpegError
    ) -> JpegError | SourceChangedError | None:
        """Add a file, or return the error that prevents it."""
        f = task.files[i]
        if isinstance(data, JpegError):
            return data
        if len(data) != f.n_bytes:
            return SourceChangedError(
                f"{f.key}: was listed with {f.n_bytes} bytes, has {len(data)} now"
            )
        try:
            self._add(rows, task, i, data)
        except JpegError as e:
            return e
        return None

    def _read(self, files: Sequence[SourceFile]) -> Sequence[bytes | JpegError]:
        if self.source.max_readers == 1:
            return [self._read_one(f) for f in files]
        with ThreadPoolExecutor(self.source.max_readers) as pool:
            return list(pool.map(self._read_one, files))

    def _read_one(self, f: SourceFile) -> bytes | JpegError:
        if f.problem is not None:
            return UnsupportedJpegError(f.problem)
        if f.n_bytes > self.limits.max_bytes:
            return LimitError(f"has {f.n_bytes} bytes, over the limit of {self.limits.max_bytes}")
        try:
            return self.source.read(f)
        except NotFoundError as e:
            raise SourceChangedError(f"{f.key}: was listed, is gone now") from e
        except JpegError as e:
            return e

    def _add(self, rows: _Gathered, task: RecordTask, i: int, data: bytes) -> None:
        t = transcode(data, self.script, self.limits)
        self._append(rows, task, i, data, t, blob=t.restore, kind=t.kind.name.lower(), form=JPEG)

    def _apply_policy(
        self, rows: _Gathered, task: RecordTask, i: int, data: bytes | JpegError, reason: str
    ) -> Problem:
        """Treat a file that cannot be transcoded as the policy says."""
        key = unicode_name(task.files[i].key)
        if self.policy == "raise":
            return Problem(key=key, reason=reason, outcome="refused")
        if isinstance(data, bytes) and data and self.policy == "opaque":
            empty = (b"",) * (self.script.n_groups - 1)
            rows.images.append(RecordImage(groups=(data, *empty), restore=b"", opaque=True))
            _append_columns(rows, task, i, data, form=OPAQUE, size=(0, 0), orientation=1)
            return Problem(key=key, reason=reason, outcome="opaque")
        if isinstance(data, bytes) and self.policy == "encode":
            try:
                self._encode(rows, task, i, data)
            except JpegError as e:
                return Problem(key=key, reason=f"{reason}; {e}", outcome="skipped")
            return Problem(key=key, reason=reason, outcome="encoded")
        return Problem(key=key, reason=reason, outcome="skipped")

    def _encode(self, rows: _Gathered, task: RecordTask, i: int, data: bytes) -> None:
        t = transcode(
            encode_jpeg(data, quality=self.encode_quality, max_pixels=self.limits.max_pixels),
            self.script,
            self.limits,
        )
        whole = RestoreBlob(kind=Kind.WHOLE, checksum=crc32c(data), skeleton=data, segments=())
        blob = pack_blob(whole, t.groups)
        self._append(rows, task, i, data, t, blob=blob, kind="encoded", form=ENCODED)

    def _append(
        self,
        rows: _Gathered,
        task: RecordTask,
        i: int,
        data: bytes,
        t: Transcoded,
        *,
        blob: bytes,
        kind: str,
        form: int,
    ) -> None:
        rows.images.append(RecordImage(groups=t.groups, restore=blob, opaque=False))
        rows.bytes_by_kind[kind] = rows.bytes_by_kind.get(kind, 0) + len(blob)
        rows.images_by_kind[kind] = rows.images_by_kind.get(kind, 0) + 1
        _append_columns(
            rows, task, i, data, form=form, size=(t.width, t.height), orientation=t.orientation
        )
        if task.measured[i]:
            rows.quality.append(measure(t.groups))

    def _finish(self, task: RecordTask, rows: _Gathered, problems: list[Problem]) -> BuiltRecord:
        refused = any(p.outcome == "refused" for p in problems)
        images = [] if refused else rows.images
        header, regions = b"", (b"",) * (self.script.n_groups + 1)
        restore = np.zeros(len(images), RESTORE_DTYPE)
        if images:
            built, parts = build_record(images, seed=task.seed)
            header, regions = built.encode(), tuple(parts)
            region = self.script.n_groups
            words = place_words(task.seed, len(images), region + 1)[:, region]
            restore["length"] = [len(im.restore) for im in images]
            restore["checksum"] = [crc32c(im.restore) for im in images] ^ words
        columns: dict[str, Values] = {}
        for c in COLUMNS:
            values = rows.columns[c.name] if images else []
            columns[c.name] = (
                np.array(values, c.item).reshape((-1, *c.row_shape)) if c.is_array else [*values]
            )
        return BuiltRecord(
            ordinal=task.ordinal,
            header=header,
            regions=regions,
            restore=restore,
            columns=columns,
            problems=tuple(problems),
            quality=tuple(rows.quality),
            restore_bytes=rows.bytes_by_kind,
            restore_images=rows.images_by_kind,
        )


def _append_columns(
    rows: _Gathered,
    task: RecordTask,
    i: int,
    data: bytes,
    *,
    form: int,
    size: tuple[int, int],
    orientation: int,
) -> None:
    values = {
        "key": unicode_name(task.files[i].key),
        "label": task.labels[i],
        "split": task.splits[i],
        "format": form,
        "orientation": orientation,
        "width": size[0],
        "height": size[1],
        "source_bytes": len(data),
        "source_sha256": np.frombuffer(hashlib.sha256(data).digest(), np.uint8),
    }
    for name, value in values.items():
        rows.columns[name].append(value)


def encode_jpeg(data: bytes, *, quality: int, max_pixels: int) -> bytes:
    """Return any image that Pillow reads as a JPEG, its EXIF and ICC profile kept.

    Raises:
        DecodeError: Pillow does not read it, or only with damage, or its samples have no range.
        LimitError: Too many pixels.
    """
    image, exif, icc = open_plain(data, max_pixels=max_pixels)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=0, exif=exif, icc_profile=icc)
    return out.getvalue()
