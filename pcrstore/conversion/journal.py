"""Journal of finished units, kept in the destination so that a killed conversion can be resumed.

    staging/<options>/<content>/listing      the source as it was when the conversion began
    staging/<options>/<content>/unit-000007  everything the index needs of a finished unit

`options` is a hash of the options and the source's URL, `content` one of the options and the
listing. A run that finds its `options` with another `content` has met a source that changed.
Readers of the dataset read nothing here, and a run removes it once a version is committed.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pcrstore.conversion.report import MsSsims, Problem
from pcrstore.conversion.sources import Listing
from pcrstore.core import UID_BYTES, Count, Stored, crc32c, decode_json, encode_json
from pcrstore.errors import FormatError, NotFoundError, SourceChangedError
from pcrstore.format import (
    COLUMNS,
    STAGING,
    PartEntry,
    Rows,
    Run,
    decode_directory,
    decode_part,
    is_note_name,
    listing_name,
    staging_folder,
    unit_name,
)
from pcrstore.storage import Store

__all__ = ["FinishedUnit", "Journal", "Outcomes"]

_MAX_UNIT: Final = 2**31
_NO_UID: Final = "0" * 2 * UID_BYTES
_ARRAYS: Final = Run(name="arrays", uid=_NO_UID, n_bytes=0, chunk=1)
"""Stand-in for the arrays of the zarr layout, whose lengths are known only at the end."""
_MAX_LISTING: Final = 2**28
"""Bytes of a listing that is unpacked, for the name of a file that changed: a few million files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Facts about the files of a unit that the report sums up."""

    problems: tuple[Problem, ...]
    quality: tuple[MsSsims, ...]
    """MS-SSIM of each measured image."""
    restore_bytes: dict[str, Count]
    """Bytes of restore blobs by their kind."""
    restore_images: dict[str, Count]
    """Images by the kind of their restore blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUnit:
    """A unit whose records are built, and placed unless a file was refused.

    The journal holds it once its objects are stored, too.
    """

    number: int
    object: Run | None
    """The unit's object; None in the zarr layout, and when no image was left."""
    rows: Rows | None
    """The unit's part of the index; None when no image was left, or it was not placed."""
    outcomes: Outcomes


class _Note(Stored, frozen=True, kw_only=True):
    """A finished unit as JSON; its rows follow as an index part."""

    number: Count
    object: Run | None
    part: PartEntry | None
    outcomes: Outcomes


class Journal:
    """The staging folder of one conversion."""

    def __init__(
        self, store: Store, *, options: str, content: str, layout: str, n_groups: int
    ) -> None:
        self._store = store
        self._options = staging_folder(options)
        self._folder = staging_folder(options, content)
        self._layout = layout
        self._n_groups = n_groups

    def begin(self, listing: Listing, *, restart: bool) -> frozenset[str]:
        """Note the listing; return the names of the notes of earlier runs.

        Raises:
            SourceChangedError: A conversion with these options began from another source.
        """
        names = [e.name for e in self._store.list(self._options)]
        others = [n for n in names if not n.startswith(f"{self._folder}/")]
        if others and restart:
            self._store.delete(others)
        elif others:
            raise SourceChangedError(
                f"{self._difference(others, listing)} since the conversion that is being resumed "
                "began; restore it, or begin again (--restart, restart=True)"
            )
        mine = frozenset(n for n in names if n not in others)
        name = listing_name(self._folder)
        if name not in mine:
            self._store.put(name, _encode_listing(listing))
        return mine

    def _difference(self, others: Iterable[str], listing: Listing) -> str:
        """Return a sentence that names the first file that differs."""
        name = next((n for n in others if n.endswith("/listing")), None)
        before = _decode_listing(self._get(name)) if name else None
        if before is None:
            return "the source may have changed"
        now = {f.key: (f.n_bytes, f.stamp) for f in listing.files}
        for key in sorted(before.keys() | now.keys()):
            if key not in now:
                return f"the source file {key} is gone"
            if key not in before:
                return f"the source file {key} is new"
            if before[key] != now[key]:
                return f"the source file {key} changed"
        return "the source changed"

    def name(self, unit: int, variant: str = "") -> str:
        """Return the name of a unit's note; `variant` tells policies apart."""
        return unit_name(self._folder, unit, variant)

    def write(self, unit: FinishedUnit, variant: str = "") -> None:
        """Note a finished unit."""
        part, data = (None, b"")
        if unit.rows is not None:
            part, data = unit.rows.encode(
                name="journal",
                uid=_NO_UID,
                n_groups=self._n_groups,
                runs=[unit.object or _ARRAYS],
                columns=COLUMNS,
            )
        note = _Note(number=unit.number, object=unit.object, part=part, outcomes=unit.outcomes)
        head = encode_json(note)
        body = len(head).to_bytes(4, "little") + head + data
        self._store.put(self.name(unit.number, variant), crc32c(body).to_bytes(4, "little") + body)

    def read(self, name: str) -> FinishedUnit | None:
        """Return a noted unit; None when the note is damaged: the unit is then built again."""
        try:
            data = self._get(name)
        except NotFoundError:  # another run of the same conversion has just committed
            return None
        if len(data) < 8:
            return None
        if crc32c(data[4:]) != int.from_bytes(data[:4], "little"):
            return None
        n = int.from_bytes(data[4:8], "little")
        try:
            note = decode_json(data[8 : 8 + n], _Note, where=name)
            return self._with_rows(note, data[8 + n :])
        except FormatError:
            return None

    def _get(self, name: str) -> bytes:
        """Return a note, or no bytes of one that is too large to be ours."""
        try:
            return self._store.get(name, max_bytes=_MAX_UNIT)
        except FormatError:
            return b""

    def _with_rows(self, note: _Note, data: bytes) -> FinishedUnit:
        rows = None
        if note.part is not None:
            directory = decode_directory(
                data[: note.part.head.n_bytes],
                note.part,
                layout=self._layout,
                n_groups=self._n_groups,
                columns=COLUMNS,
            )
            rows = decode_part(data, directory, COLUMNS)
        return FinishedUnit(
            number=note.number, object=note.object, rows=rows, outcomes=note.outcomes
        )

    def remove(self) -> None:
        """Remove the notes of every conversion.

        Called once a version is committed, for no other conversion can commit then. Only names
        that a journal makes are removed: somebody may keep a folder `staging` there.
        """
        names = [e.name for e in self._store.list(STAGING) if is_note_name(e.name)]
        if names:
            self._store.delete(names)


def _encode_listing(listing: Listing) -> bytes:
    lines = [json.dumps([f.key, f.n_bytes, f.stamp]) for f in listing.files]
    return zlib.compress("\n".join(lines).encode())


def _decode_listing(data: bytes) -> dict[str, tuple[int, str]] | None:
    """Return size and stamp by key; None when the note is damaged, or very long."""
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, _MAX_LISTING)
        if not unpacker.eof:
            return None
        lines: Sequence[str] = text.decode().split("\n")
        rows = [json.loads(line) for line in lines]
        return {str(key): (int(n), str(stamp)) for key, n, stamp in rows}
    except (zlib.error, ValueError, TypeError):
        return None
