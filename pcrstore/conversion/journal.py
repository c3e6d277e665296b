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
from dataclasses import asdict, dataclass

from pcrstore.conversion.report import Problem
from pcrstore.conversion.sources import Listing
from pcrstore.core import UID_BYTES, JsonReader, crc32c, parse_json, to_json
from pcrstore.errors import FormatError, NotFoundError, SourceChangedError
from pcrstore.format import (
    COLUMNS,
    STAGING,
    ObjectEntry,
    PartEntry,
    Rows,
    decode_directory,
    decode_part,
    is_note_name,
    listing_name,
    staging_folder,
    unit_name,
)
from pcrstore.storage import Store

__all__ = ["FinishedUnit", "Journal"]

_MAX_UNIT = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUnit:
    """A unit whose bytes are in the store, or whose files cannot be converted."""

    number: int
    object: ObjectEntry | None
    """The object written; None in the zarr layout, and when no image was left."""
    rows: Rows | None
    """None when no image was left."""
    problems: tuple[Problem, ...]
    quality: tuple[tuple[float, ...], ...]
    restore_bytes: dict[str, int]
    restore_images: dict[str, int]


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
        """Note the listing; return the names of what is finished.

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
        """Name the first file that is not as it was."""
        name = next((n for n in others if n.endswith("/listing")), None)
        before = _decode_listing(self._store.get(name)) if name else None
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
        """Return the name under which a unit is noted; `variant` tells policies apart."""
        return unit_name(self._folder, unit, variant)

    def write(self, unit: FinishedUnit, variant: str = "") -> None:
        """Note a finished unit."""
        part, data = (None, b"")
        if unit.rows is not None:
            part, data = unit.rows.encode(
                name="journal",
                uid=bytes(UID_BYTES),
                layout=self._layout,
                n_groups=self._n_groups,
                objects=[unit.object] if unit.object else [_ARRAYS],
                columns=COLUMNS,
            )
        head = json.dumps(
            {
                "number": unit.number,
                "stored": unit.object is not None,
                "object": _object_json(unit.object or _ARRAYS),
                "part": to_json(part) if part else None,
                "problems": [asdict(p) for p in unit.problems],
                "quality": [list(q) for q in unit.quality],
                "restore_bytes": unit.restore_bytes,
                "restore_images": unit.restore_images,
            },
            sort_keys=True,
        ).encode()
        body = len(head).to_bytes(4, "little") + head + data
        self._store.put(self.name(unit.number, variant), crc32c(body).to_bytes(4, "little") + body)

    def read(self, name: str) -> FinishedUnit | None:
        """Return a unit as noted; None when the note is damaged, so that the unit is done again."""
        try:
            data = self._store.get(name)
        except NotFoundError:  # another run of the same conversion has just committed
            return None
        if len(data) < 8 or len(data) > _MAX_UNIT:
            return None
        if crc32c(data[4:]) != int.from_bytes(data[:4], "little"):
            return None
        n = int.from_bytes(data[4:8], "little")
        try:
            return self._decode(parse_json(data[8 : 8 + n], where=name), data[8 + n :], name)
        except FormatError:
            return None

    def _decode(self, f: JsonReader, data: bytes, where: str) -> FinishedUnit:
        entry = f.object("object")
        stored = ObjectEntry(
            name=entry.object_name("name"),
            uid=entry.hexadecimal("uid", UID_BYTES),
            n_bytes=entry.integer("bytes", 0),
        )
        rows = None
        if f.has("part"):
            part = f.typed("part", PartEntry)
            directory = decode_directory(
                data[: part.directory.n_bytes],
                part,
                layout=self._layout,
                n_groups=self._n_groups,
                columns=COLUMNS,
            )
            rows = decode_part(data, directory, COLUMNS)
        kinds, counts = f.object("restore_bytes"), f.object("restore_images")
        measured = JsonReader(
            {str(i): q for i, q in enumerate(f.items("quality", max_items=10**6))}, where
        )
        return FinishedUnit(
            number=f.integer("number", 0),
            object=stored if f.boolean("stored") else None,
            rows=rows,
            problems=tuple(
                Problem(
                    key=p.string("key"),
                    reason=p.string("reason", max_length=65_536),
                    outcome=p.string("outcome"),
                )
                for p in f.objects("problems", max_items=10**7)
            ),
            quality=tuple(
                measured.numbers(i, max_items=self._n_groups, low=-1.0, high=1.0)
                for i in measured.names()
            ),
            restore_bytes={k: kinds.integer(k, 0) for k in kinds.names()},
            restore_images={k: counts.integer(k, 0) for k in counts.names()},
        )

    def remove(self) -> None:
        """Remove the notes of every conversion, once a version is committed: no other can be.

        Nothing else is touched, should somebody keep a folder of that name there.
        """
        names = [e.name for e in self._store.list(STAGING) if is_note_name(e.name)]
        if names:
            self._store.delete(names)


_ARRAYS = ObjectEntry(name="arrays", uid=bytes(UID_BYTES), n_bytes=0)
"""Stands for the Zarr group, whose name and length are known only at the end."""


def _object_json(o: ObjectEntry) -> dict[str, object]:
    return {"name": o.name, "uid": o.uid.hex(), "bytes": o.n_bytes}


def _encode_listing(listing: Listing) -> bytes:
    lines = [json.dumps([f.key, f.n_bytes, f.stamp]) for f in listing.files]
    return zlib.compress("\n".join(lines).encode())


def _decode_listing(data: bytes) -> dict[str, tuple[int, str]] | None:
    """Return size and stamp by key; None when the note is damaged."""
    try:
        lines: Sequence[str] = zlib.decompress(data).decode().split("\n")
        rows = [json.loads(line) for line in lines]
        return {str(key): (int(n), str(stamp)) for key, n, stamp in rows}
    except (zlib.error, ValueError, TypeError):
        return None
