"""Reads of images: from positions and fidelities to checked cells or files.

    positions ──▶ wants, one per record ──plan──▶ get_ranges ──assemble──▶ checked ──▶ ImageCells
    selections of records ──▶ the same ──────────────────────────────────▶ checked ──▶ files
                                                                 └── fails: fetched again

A record of which every image is wanted at one fidelity is read as its prefix; some images of a
record are read cell by cell. With a cache, prefixes are asked for group by group, and a group that
the cache holds is not planned at all.

Example: records of 4 images, and positions 6, 1, 5, 1 at fidelities 2, 1, 2, 3. Positions 5 and 6
are images 1 and 2 of record 1; position 1 is image 1 of record 0, wanted twice, and so read once at
the higher fidelity. Two wants in the order in which records are met:

    want 0    record 1, images (1, 2) at fidelities (2, 2)
    want 1    record 0, images (1,) at fidelities (3,)
    places    (0, 1), (1, 0), (0, 0), (1, 0): want, and position among its images

Position 1 at fidelity 1 is the first cell of the three.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import numpy as np

from pcrstore.core import ByteRange, divide, runs_of
from pcrstore.cost import CostModel
from pcrstore.dataset.fetch import Counter, decode_checked, get_ranges
from pcrstore.dataset.index_reader import IndexReader, Part
from pcrstore.dataset.planner import (
    ImageCells,
    ReadPlan,
    Want,
    WantedCells,
    WantedPrefix,
    assemble,
    plan,
)
from pcrstore.format import Manifest
from pcrstore.jpeg import decodable
from pcrstore.storage import RangeCache, ReadableStore

__all__ = ["Reader", "RecordSelection", "RecordSpan"]

OfImage = TypeVar("OfImage")

_SPAN_BYTES: Final = 16 * 2**20
"""Bytes that an iteration asks for at once: 16 record prefixes of a megabyte fill a 1 Gbit/s link
with 20 ms of latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpan:
    """Neighbouring whole records of one index part, which are read together."""

    part: Part
    number: int
    """Number of the part in the dataset."""
    start: int
    """First record, counted in the part."""
    stop: int
    """One past the last record, counted in the part."""

    @property
    def images(self) -> range:
        """Positions of the images in the dataset."""
        edges = self.part.image_edges
        base = self.part.first_image
        return range(base + int(edges[self.start]), base + int(edges[self.stop]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSelection:
    """A record, or some images of one, to be read."""

    part: int
    record: int
    """Counted in the part."""
    images: tuple[int, ...] | None
    """Positions in the record; None: all."""
    fidelity: int | tuple[int, ...]
    """Of all images, or of each."""
    restore: bool = False
    """True where the restore blobs of the images are read too."""

    @property
    def is_prefix(self) -> bool:
        """True where the bytes are a prefix of the record: all images at one fidelity."""
        return self.images is None and isinstance(self.fidelity, int) and not self.restore


class Reader:
    """Reads one version of a dataset from its store.

    Args:
        store: The store of the dataset.
        manifest: Of the version.
        cost: Prices and link; decides which ranges are read together.
        cache: A cache of scan groups on local disk.
        part_bytes: Requests longer than this are made as several at once; None: never.
        index: The index, where another reader of the same version has it.
    """

    def __init__(
        self,
        store: ReadableStore,
        manifest: Manifest,
        cost: CostModel,
        *,
        cache: RangeCache | None = None,
        part_bytes: int | None = None,
        index: IndexReader | None = None,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._cost = cost
        self._part_bytes = part_bytes
        self.cache = cache
        self.index = index or IndexReader(store, manifest, cost)
        self.counter = Counter()
        """Requests and bytes of scan groups; those of the index are counted by `index`."""

    @property
    def needs_headers(self) -> bool:
        """True where records have no header of their own, so that the index is read for it."""
        return self._manifest.layout == "zarr"

    def plan(
        self, positions: Sequence[int], fidelities: Sequence[int], originals: Sequence[bool]
    ) -> ReadPlan:
        """Plan the reads of `cells_at`; see `Dataset.plan`."""
        wants, _ = self._wants_at(positions, fidelities, originals)
        return plan(wants, cost=self._cost)

    def cells_at(
        self, positions: Sequence[int], fidelities: Sequence[int], originals: Sequence[bool]
    ) -> list[ImageCells]:
        """Return the cells of images, in the order of `positions`.

        Args:
            positions: Images of the dataset; repeats are read once.
            fidelities: Group number of each.
            originals: True for each whose restore blob is wanted too.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again.
        """
        wants, places = self._wants_at(positions, fidelities, originals)
        found = [*self._read_checked(wants, _cells)]
        out: list[ImageCells] = []
        for (w, i), k, with_restore in zip(places, fidelities, originals, strict=True):
            image = found[w][i]
            # The same image, or another of its record, was asked for with more.
            if len(image.cells) > k or (image.restore is not None and not with_restore):
                image = replace(
                    image,
                    cells=image.cells[:k],
                    restore=image.restore if with_restore else None,
                )
            out.append(image)
        return out

    def spans(self, k: int, start: int, stop: int) -> Iterator[RecordSpan]:
        """Yield records `start` to `stop` as spans of about `_SPAN_BYTES` at fidelity k."""
        edges = self.index.record_edges
        for p in range(len(self._manifest.parts)):
            a, b = max(start, int(edges[p])), min(stop, int(edges[p + 1]))
            if a >= b:
                continue
            part = self.index.parts([p])[0]
            base = int(edges[p])
            first = a - base
            sizes = part.records["length"][first : b - base, :k].sum(axis=1, dtype=np.int64)
            for run in runs_of(sizes.tolist(), _SPAN_BYTES):
                yield RecordSpan(
                    part=part, number=p, start=first + run.start, stop=first + run.stop
                )

    def read_span(self, span: RecordSpan, k: int) -> list[ImageCells]:
        """Return every image of a span, in order, by one prefix per record."""
        selections = [
            RecordSelection(part=span.number, record=r, images=None, fidelity=k)
            for r in range(span.start, span.stop)
        ]
        found = self._read_checked(self._wants(selections), _cells)
        return [*itertools.chain.from_iterable(found)]

    def files(self, selections: Sequence[RecordSelection]) -> Iterator[list[bytes]]:
        """Read selections; yield for each the files that a decoder takes of its images.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again. The selections
                before were yielded.
        """
        return self._read_checked(self._wants(selections), self._files)

    def _files(self, want: Want, fetched: Sequence[bytes]) -> list[bytes]:
        n = self._manifest.n_groups
        if not isinstance(want, WantedPrefix):
            return [decodable(c.cells, n, opaque=c.opaque) for c in want.checked(fetched)]
        return [decodable(cells, n, opaque=opaque) for opaque, cells in want.views(fetched)]

    def files_at(self, positions: Sequence[int], fidelities: Sequence[int]) -> list[bytes]:
        """Return the files that a decoder takes of scattered images, in the order of `positions`.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again.
        """
        n = self._manifest.n_groups
        images = self.cells_at(positions, fidelities, [False] * len(positions))
        return [decodable(c.cells, n, opaque=c.opaque) for c in images]

    def _wants(self, selections: Sequence[RecordSelection]) -> list[Want]:
        """Return the wants of selections, with headers where they have none of their own."""
        numbers = list(dict.fromkeys(s.part for s in selections))
        parts = dict(zip(numbers, self.index.parts(numbers), strict=True))
        needed = [(s.part, s.record) for s in selections if self.needs_headers or not s.is_prefix]
        headers = dict(zip(needed, self.index.headers(needed), strict=True)) if needed else {}
        wants: list[Want] = []
        for s in selections:
            part = parts[s.part]
            placement = part.placement(s.record)
            if isinstance(s.fidelity, int) and s.is_prefix:
                wants.append(
                    WantedPrefix(
                        record=part.first_record + s.record,
                        placement=placement,
                        n_groups=self._manifest.n_groups,
                        fidelity=s.fidelity,
                        header=headers.get((s.part, s.record)),
                        by_group=self.cache is not None,
                    )
                )
                continue
            images = tuple(range(placement.n_images)) if s.images is None else s.images
            fidelities = s.fidelity
            if isinstance(fidelities, int):
                fidelities = (fidelities,) * len(images)
            wants.append(
                WantedCells(
                    record=part.first_record + s.record,
                    placement=placement,
                    header=headers[s.part, s.record],
                    images=images,
                    fidelities=fidelities,
                    restore=self.index.restore_rows(s.part, s.record) if s.restore else None,
                )
            )
        return wants

    def _wants_at(
        self, positions: Sequence[int], fidelities: Sequence[int], originals: Sequence[bool]
    ) -> tuple[list[Want], list[tuple[int, int]]]:
        """Return a want for each record touched, and each position's place.

        A place is the number of a want, and the position among its images; see the example of
        this module.
        """
        found = self.index.locate(positions)
        numbers, slots = found.number.tolist(), found.slot.tolist()
        # Of each record its images, with the highest fidelity that is asked for of each.
        asked: dict[int, dict[int, tuple[int, bool]]] = {}
        for number, slot, k, with_restore in zip(
            numbers, slots, fidelities, originals, strict=True
        ):
            images = asked.setdefault(number, {})
            before = images.get(slot, (0, False))
            images[slot] = (max(before[0], k), before[1] or with_restore)
        rows = zip(
            found.part.tolist(), found.record.tolist(), found.record_size.tolist(), strict=True
        )
        records = dict(zip(numbers, rows, strict=True))
        selections: list[RecordSelection] = []
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for w, (number, images) in enumerate(asked.items()):
            part, record, size = records[number]
            ordered = sorted(images)
            places.update({(number, slot): (w, i) for i, slot in enumerate(ordered)})
            each = tuple(images[slot][0] for slot in ordered)
            restore = any(with_restore for _, with_restore in images.values())
            # One prefix holds all of this: every image, one fidelity, no restore blobs.
            is_prefix = len(images) == size and len(set(each)) == 1 and not restore
            selections.append(
                RecordSelection(
                    part=part,
                    record=record,
                    images=None if is_prefix else tuple(ordered),
                    fidelity=each[0] if is_prefix else each,
                    restore=restore,
                )
            )
        return self._wants(selections), [places[key] for key in zip(numbers, slots, strict=True)]

    def _read_checked(
        self,
        wants: Sequence[Want],
        decode: Callable[[Want, Sequence[bytes]], list[OfImage]],
    ) -> Iterator[list[OfImage]]:
        """Read all wants by one plan; decode and check each when it is asked for.

        A want that fails its checksum is read again by itself.
        """
        for want, fetched in zip(wants, self._read(wants), strict=True):
            yield decode_checked(partial(decode, want), fetched, partial(self._read_again, want))

    def _read_again(self, want: Want) -> list[bytes]:
        if self.cache is not None and isinstance(want, WantedPrefix):
            for r in want.ranges():
                self.cache.discard(r)
        return self._read([want], anew=True)[0]

    def _read(self, wants: Sequence[Want], *, anew: bool = False) -> list[list[bytes]]:
        """Return the bytes of the ranges of each want: from the cache, else from the store."""
        have: dict[ByteRange, bytes] = {}
        if self.cache is not None and not anew:
            # Single cells are not kept: they would be files of a kilobyte.
            kept = [want for want in wants if isinstance(want, WantedPrefix)]
            wanted = dict.fromkeys(r for want in kept for r in want.ranges())
            have = {r: body for r in wanted if (body := self.cache.get(r)) is not None}
        p = plan(wants, cost=self._cost, have=have)
        fetched = assemble(p, self._get(p), have)
        if self.cache is not None:
            for want, of_want in zip(wants, fetched, strict=True):
                if isinstance(want, WantedPrefix):
                    for r, body in zip(want.ranges(), of_want, strict=True):
                        if r not in have:
                            self.cache.put(r, body)
        return fetched

    def _get(self, p: ReadPlan) -> list[bytes]:
        """Return the body of each request, reading a long one by several GETs."""
        ranges = [r.range for r in p.requests]
        divided = [divide(r, self._part_bytes) if self._part_bytes else [r] for r in ranges]
        got = get_ranges(self._store, [r for of in divided for r in of])
        self.counter.add(len(got), sum(map(len, got)))
        if len(got) == len(ranges):
            return got
        it = iter(got)
        return [b"".join(itertools.islice(it, len(of))) for of in divided]


def _cells(want: Want, fetched: Sequence[bytes]) -> list[ImageCells]:
    return [*want.checked(fetched)]
