"""From images asked for to checked cells: the flow behind every read of a dataset.

    positions ──▶ wants (one per record touched) ──plan──▶ get_ranges ──assemble──▶ Pieces
                                                              └── a checksum fails: read again

A record of which everything is wanted is read as its prefix; a part of one cell by cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pcrstore.catalog import Catalog, Part
from pcrstore.cost import CostModel
from pcrstore.errors import ChecksumError
from pcrstore.fetching import ATTEMPTS, Counter, get_ranges
from pcrstore.manifest import Manifest
from pcrstore.plan import Cells, Pieces, Prefix, ReadPlan, Want, assemble, plan
from pcrstore.store import ReadableStore

__all__ = ["Reader", "Window"]

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


class Reader:
    """Reads one version of a dataset from its store."""

    def __init__(self, store: ReadableStore, manifest: Manifest, cost: CostModel) -> None:
        self._store = store
        self._manifest = manifest
        self._cost = cost
        self.catalog = Catalog(store, manifest, cost)
        self.counter = Counter()
        """Requests and bytes of scan groups; those of the index are the catalog's."""

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
        part = window.part
        p = self.catalog.part_of_image(part.first_image)
        records = range(window.first, window.stop)
        headers = (
            self.catalog.headers([(p, r) for r in records])
            if self._manifest.layout == "zarr"
            else [None] * len(records)
        )
        wants = [
            Prefix(
                record=part.first_record + r,
                placement=part.placement(r, self._manifest.chunk_bytes),
                n_groups=self._manifest.n_groups,
                fidelity=k,
                header=header,
            )
            for r, header in zip(records, headers, strict=True)
        ]
        return [piece for found in self._execute(wants) for piece in found]

    def _wants(
        self, positions: Sequence[int], fidelities: Sequence[int], source: Sequence[bool]
    ) -> tuple[list[Want], list[tuple[int, int]]]:
        """Return one want per record touched, and where each position's piece will be."""
        edges = self.catalog.image_edges
        numbers = np.searchsorted(edges, np.asarray(positions, np.int64), side="right") - 1
        touched = sorted(set(numbers.tolist()))
        parts = dict(zip(touched, self.catalog.parts(touched), strict=True))
        asked: dict[tuple[int, int], dict[int, tuple[int, bool]]] = {}
        places: list[tuple[tuple[int, int], int]] = []
        for at, p, k, whole in zip(positions, numbers.tolist(), fidelities, source, strict=True):
            part = parts[p]
            local = at - part.first_image
            r = int(np.searchsorted(part.image_edges, local, side="right")) - 1
            image = local - int(part.image_edges[r])
            before = asked.setdefault((p, r), {}).get(image, (0, False))
            asked[p, r][image] = (max(before[0], k), before[1] or whole)
            places.append(((p, r), image))
        whole_records = {
            key for key, images in asked.items() if self._is_whole(parts[key[0]], key[1], images)
        }
        zarr = self._manifest.layout == "zarr"
        needed = [key for key in asked if zarr or key not in whole_records]
        headers = dict(zip(needed, self.catalog.headers(needed), strict=True))
        wants: list[Want] = []
        slots: dict[tuple[tuple[int, int], int], tuple[int, int]] = {}
        for (p, r), images in asked.items():
            placement = parts[p].placement(r, self._manifest.chunk_bytes)
            record = parts[p].first_record + r
            ordered = sorted(images)
            slots.update({((p, r), i): (len(wants), n) for n, i in enumerate(ordered)})
            if (p, r) in whole_records:
                wants.append(
                    Prefix(
                        record=record,
                        placement=placement,
                        n_groups=self._manifest.n_groups,
                        fidelity=images[0][0],
                        header=headers.get((p, r)),
                    )
                )
                continue
            restore = any(whole for _, whole in images.values())
            wants.append(
                Cells(
                    record=record,
                    placement=placement,
                    header=headers[p, r],
                    images=tuple(ordered),
                    fidelities=tuple(images[i][0] for i in ordered),
                    restore=self.catalog.restore_rows(p, r) if restore else None,
                )
            )
        return wants, [slots[key] for key in places]

    def _is_whole(self, part: Part, record: int, images: Mapping[int, tuple[int, bool]]) -> bool:
        """Say whether one prefix is what is wanted: all images, one fidelity, no originals."""
        n = int(part.records[record]["n_images"])
        return len(images) == n and len(set(images.values())) == 1 and not images[0][1]

    def _execute(self, wants: Sequence[Want]) -> list[list[Pieces]]:
        """Read, cut and check; read again what fails its checksum."""
        p = plan(wants, cost=self._cost)
        parts = assemble(p, self._get(p))
        return [self._cut(want, got) for want, got in zip(wants, parts, strict=True)]

    def _cut(self, want: Want, parts: Sequence[bytes]) -> list[Pieces]:
        for _ in range(ATTEMPTS - 1):
            try:
                return list(want.cut(parts))
            except ChecksumError:
                again = plan([want], cost=self._cost)
                parts = assemble(again, self._get(again))[0]
        return list(want.cut(parts))

    def _get(self, p: ReadPlan) -> list[bytes]:
        bodies = get_ranges(self._store, [r.range for r in p.requests])
        self.counter.add(p.n_requests, sum(map(len, bodies)))
        return bodies
