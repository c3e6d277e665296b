"""From images asked for to checked cells: the flow behind every read of a dataset.

    positions ──▶ wants (one per record touched) ──plan──▶ get_ranges ──assemble──▶ Pieces
    records  ──files─▶ the same, whole ────────────────────────────────────▶ what a decoder takes
                                                               └── a checksum fails: read again

A record of which everything is wanted is read as its prefix; a part of one cell by cell. With a
cache, prefixes are asked for group by group, and what the cache holds is not planned at all.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import numpy as np

from pcrstore.core import ByteRange, divide
from pcrstore.cost import CostModel
from pcrstore.dataset.fetch import Counter, RangeCache, checked, get_ranges
from pcrstore.dataset.index_reader import IndexReader, Part
from pcrstore.dataset.planner import Cells, Pieces, Prefix, ReadPlan, Want, assemble, plan
from pcrstore.format import Header, Manifest, decodable
from pcrstore.storage import ReadableStore

__all__ = ["Chosen", "Reader", "Window"]

OfImage = TypeVar("OfImage")

_WINDOW_BYTES: Final = 16 * 2**20
"""What an iteration asks for at once: 16 record prefixes of a megabyte fill a 1 Gbit/s link with
20 ms of latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A run of whole records that are read together."""

    part: Part
    first: int
    """First record, counted in the part."""
    stop: int

    @property
    def images(self) -> range:
        """Positions of its images in the dataset."""
        edges = self.part.image_edges
        base = self.part.first_image
        return range(base + int(edges[self.first]), base + int(edges[self.stop]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A record, or some images of one, to be decoded."""

    part: int
    record: int
    """Counted in the part."""
    images: tuple[int, ...] | None
    """Positions in the record; None: all."""
    fidelity: int | tuple[int, ...]
    """Of all, or of each of `images`."""
    restore: bool = False
    """Whether the restore blobs of `images` are read too."""


class Reader:
    """Reads one version of a dataset from its store.

    Args:
        store: What it is read from.
        manifest: Of the version.
        cost: Prices and link; decides which ranges are read together.
        cache: Scan groups on local disk.
        part_bytes: Requests longer than this are made as several at once; None: never.
        catalog: The index, where another reader of the same version has it.
    """

    def __init__(
        self,
        store: ReadableStore,
        manifest: Manifest,
        cost: CostModel,
        *,
        cache: RangeCache | None = None,
        part_bytes: int | None = None,
        catalog: IndexReader | None = None,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._cost = cost
        self._part_bytes = part_bytes
        self.cache = cache
        self.catalog = catalog or IndexReader(store, manifest, cost)
        self.counter = Counter()
        """Requests and bytes of scan groups; those of the index are the catalog's."""

    @property
    def needs_headers(self) -> bool:
        """Say whether records have no header of their own, so that the index is read for it."""
        return self._manifest.layout == "zarr"

    def plan(
        self, positions: Sequence[int], fidelities: Sequence[int], source: Sequence[bool]
    ) -> ReadPlan:
        """Plan what `pieces` would read; see `Dataset.plan`."""
        wants, _ = self._wants(positions, fidelities, source)
        return plan(wants, cost=self._cost)

    def pieces(
        self, positions: Sequence[int], fidelities: Sequence[int], source: Sequence[bool]
    ) -> list[Pieces]:
        """Return the cells of images, in the order of `positions`.

        Args:
            positions: Images of the dataset; repeats are read once.
            fidelities: Group number of each.
            source: Whether the restore blob of each is wanted too.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again.
        """
        wants, slots = self._wants(positions, fidelities, source)
        found = self._execute(wants)
        out: list[Pieces] = []
        for (w, i), k in zip(slots, fidelities, strict=True):
            piece = found[w][i]
            if len(piece.cells) > k:  # the same image was also asked for at a higher fidelity
                piece = replace(piece, cells=piece.cells[:k])
            out.append(piece)
        return out

    def windows(self, k: int, start: int, stop: int) -> Iterator[Window]:
        """Cut records `start` to `stop` into windows of about `_WINDOW_BYTES` at fidelity k."""
        edges = self.catalog.record_edges
        for p in range(len(self._manifest.parts)):
            a, b = max(start, int(edges[p])), min(stop, int(edges[p + 1]))
            if a >= b:
                continue
            part = self.catalog.parts([p])[0]
            base = int(edges[p])
            sizes = part.records["length"][:, :k].sum(axis=1, dtype=np.int64)
            first, total = a - base, 0
            for r in range(a - base, b - base):
                if total and total + int(sizes[r]) > _WINDOW_BYTES:
                    yield Window(part=part, first=first, stop=r)
                    first, total = r, 0
                total += int(sizes[r])
            yield Window(part=part, first=first, stop=b - base)

    def read_window(self, window: Window, k: int) -> list[Pieces]:
        """Return every image of a window, in order, by one prefix per record."""
        p = self.catalog.part_of_image(window.part.first_image)
        chosen = [
            Chosen(part=p, record=r, images=None, fidelity=k)
            for r in range(window.first, window.stop)
        ]
        return [piece for found in self._execute(self._chosen(chosen)) for piece in found]

    def files(self, chosen: Sequence[Chosen]) -> Iterator[list[bytes]]:
        """Read records that are chosen; yield what a decoder takes of each image of each.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again. The records
                before were yielded.
        """
        return self._cut(self._chosen(chosen), self._files)

    def _files(self, want: Want, parts: Sequence[bytes]) -> list[bytes]:
        n = self._manifest.n_groups
        if not isinstance(want, Prefix):
            return [decodable(p.cells, n, opaque=p.opaque) for p in want.cut(parts)]
        return [decodable(cells, n, opaque=opaque) for opaque, cells in want.views(parts)]

    def files_at(self, positions: Sequence[int], fidelities: Sequence[int]) -> list[bytes]:
        """Return what a decoder takes of scattered images, in the order of `positions`.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again.
        """
        n = self._manifest.n_groups
        pieces = self.pieces(positions, fidelities, [False] * len(positions))
        return [decodable(p.cells, n, opaque=p.opaque) for p in pieces]

    def _chosen(self, chosen: Sequence[Chosen]) -> list[Want]:
        """Return the wants of records chosen, with headers where they have none of their own."""
        numbers = list(dict.fromkeys(c.part for c in chosen))
        parts = dict(zip(numbers, self.catalog.parts(numbers), strict=True))
        needed = [(c.part, c.record) for c in chosen if self.needs_headers or not _is_prefix(c)]
        headers = dict(zip(needed, self.catalog.headers(needed), strict=True)) if needed else {}
        wants: list[Want] = []
        for c in chosen:
            part = parts[c.part]
            if isinstance(c.fidelity, int) and c.images is None:
                wants.append(
                    self._prefix(part, c.record, c.fidelity, headers.get((c.part, c.record)))
                )
                continue
            placement = part.placement(c.record, self._manifest.chunk_bytes)
            images = tuple(range(placement.n_images)) if c.images is None else c.images
            fidelities = c.fidelity
            if isinstance(fidelities, int):
                fidelities = (fidelities,) * len(images)
            wants.append(
                Cells(
                    record=part.first_record + c.record,
                    placement=placement,
                    header=headers[c.part, c.record],
                    images=images,
                    fidelities=fidelities,
                    restore=self.catalog.restore_rows(c.part, c.record) if c.restore else None,
                )
            )
        return wants

    def _prefix(self, part: Part, record: int, k: int, header: Header | None) -> Prefix:
        return Prefix(
            record=part.first_record + record,
            placement=part.placement(record, self._manifest.chunk_bytes),
            n_groups=self._manifest.n_groups,
            fidelity=k,
            header=header,
            by_group=self.cache is not None,
        )

    def _wants(
        self, positions: Sequence[int], fidelities: Sequence[int], source: Sequence[bool]
    ) -> tuple[list[Want], list[tuple[int, int]]]:
        """Return one want per record touched, and where each position's piece will be."""
        found = self.catalog.locate(positions)
        numbers, slots = found.number.tolist(), found.slot.tolist()
        asked: dict[int, dict[int, tuple[int, bool]]] = {}
        for number, slot, k, whole in zip(numbers, slots, fidelities, source, strict=True):
            images = asked.setdefault(number, {})
            before = images.get(slot, (0, False))
            images[slot] = (max(before[0], k), before[1] or whole)
        places = zip(
            found.part.tolist(), found.record.tolist(), found.record_size.tolist(), strict=True
        )
        records = dict(zip(numbers, places, strict=True))
        chosen: list[Chosen] = []
        rank: dict[tuple[int, int], tuple[int, int]] = {}
        for w, (number, images) in enumerate(asked.items()):
            part, record, size = records[number]
            ordered = sorted(images)
            rank.update({(number, slot): (w, i) for i, slot in enumerate(ordered)})
            each = tuple(images[slot][0] for slot in ordered)
            restore = any(whole for _, whole in images.values())
            # One prefix is what is wanted: all images, one fidelity, no originals.
            if len(images) == size and len(set(each)) == 1 and not restore:
                chosen.append(Chosen(part=part, record=record, images=None, fidelity=each[0]))
                continue
            chosen.append(
                Chosen(
                    part=part,
                    record=record,
                    images=tuple(ordered),
                    fidelity=each,
                    restore=restore,
                )
            )
        return self._chosen(chosen), [rank[key] for key in zip(numbers, slots, strict=True)]

    def _execute(self, wants: Sequence[Want]) -> list[list[Pieces]]:
        return [*self._cut(wants, lambda want, parts: [*want.cut(parts)])]

    def _cut(
        self, wants: Sequence[Want], cut: Callable[[Want, Sequence[bytes]], list[OfImage]]
    ) -> Iterator[list[OfImage]]:
        """Read, cut and check; read again what fails its checksum."""
        for want, got in zip(wants, self._read(wants), strict=True):
            yield checked(partial(cut, want), got, partial(self._read_again, want))

    def _read_again(self, want: Want) -> list[bytes]:
        if self.cache is not None and isinstance(want, Prefix):
            for r in want.ranges():
                self.cache.discard(r)
        return self._read([want], anew=True)[0]

    def _read(self, wants: Sequence[Want], *, anew: bool = False) -> list[list[bytes]]:
        """Return the bytes of the ranges of each want: from the cache, else from the store."""
        have: dict[ByteRange, bytes] = {}
        if self.cache is not None and not anew:
            # Single cells are not kept: they would be files of a kilobyte.
            kept = [want for want in wants if isinstance(want, Prefix)]
            wanted = dict.fromkeys(r for want in kept for r in want.ranges())
            have = {r: body for r in wanted if (body := self.cache.get(r)) is not None}
        p = plan(wants, cost=self._cost, have=have)
        parts = assemble(p, self._get(p), have)
        if self.cache is not None:
            for want, got in zip(wants, parts, strict=True):
                if isinstance(want, Prefix):
                    for r, body in zip(want.ranges(), got, strict=True):
                        if r not in have:
                            self.cache.put(r, body)
        return parts

    def _get(self, p: ReadPlan) -> list[bytes]:
        ranges = [r.range for r in p.requests]
        pieces = [divide(r, self._part_bytes) for r in ranges] if self._part_bytes else None
        if pieces is None or all(len(of) == 1 for of in pieces):
            bodies = get_ranges(self._store, ranges)
            self.counter.add(len(ranges), sum(map(len, bodies)))
            return bodies
        got = iter(get_ranges(self._store, [r for of in pieces for r in of]))
        bodies = [b"".join(itertools.islice(got, len(of))) for of in pieces]
        self.counter.add(sum(map(len, pieces)), sum(map(len, bodies)))
        return bodies


def _is_prefix(chosen: Chosen) -> bool:
    return chosen.images is None and isinstance(chosen.fidelity, int)
