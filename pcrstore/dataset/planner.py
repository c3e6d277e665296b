"""What to ask of the store for some images at some fidelity, and how to cut what it answers.

Pure: the network is the gap between `plan` and `assemble`. The sync reader, the loader and the
cost model use the same planner.

    wants ──plan──▶ ReadPlan.requests ──(store)──▶ bodies ──assemble──▶ checked cells per image

A whole record is read as its prefix, whose header says how to cut it. Some images of a record are
read cell by cell, by the header that the index keeps; the ranges of all wants are coalesced.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import ByteRange, Coalesced, Request, coalesce, crc32c, place_words
from pcrstore.cost import CostModel, break_even_gap
from pcrstore.errors import ChecksumError
from pcrstore.format import EOI, Header, Placement, assemble_full, parse_header

__all__ = ["Cells", "Pieces", "Prefix", "ReadPlan", "Want", "assemble", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """All images of a record at one fidelity."""

    record: int
    """Position of the record in the dataset; only carried along."""
    placement: Placement
    n_groups: int
    fidelity: int
    header: Header | None = None
    """Needed where the placement has none of its own."""
    by_group: bool = False
    """Ask for every group by itself, as a cache keeps them; touching ones are merged again."""

    def ranges(self) -> list[ByteRange]:
        """Return what must be read."""
        if self.by_group:
            return self.placement.groups(self.fidelity)
        return self.placement.prefix(self.fidelity)

    def views(self, parts: Sequence[bytes]) -> Iterator[tuple[bool, list[NDArray[np.uint8]]]]:
        """Yield of every image whether it is opaque, and its checked cells: views of what was read.

        Raises:
            ChecksumError: Something is damaged, or the body has another length; of the cells, while
                iterated.
        """
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        where = _where(self.placement, self.record)
        header, start = self.header, 0
        if self.placement.has_header:
            header = parse_header(
                data,
                seed=self.placement.seed,
                n_images=self.placement.n_images,
                n_groups=self.n_groups,
                where=where,
            )
            start = header.size
        if header is None:
            raise AssertionError("a prefix without a header of its own needs the index's")
        cells = header.cut(data, self.fidelity, where=where, start=start)
        return zip(header.opaque.tolist(), cells, strict=True)

    def cut(self, parts: Sequence[bytes]) -> Iterator["Pieces"]:
        """Yield the checked cells of every image."""
        for i, (opaque, cells) in enumerate(self.views(parts)):
            yield Pieces(
                record=self.record, image=i, opaque=opaque, cells=[c.tobytes() for c in cells]
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Some images of a record, each at its own fidelity, with their restore blobs on request."""

    record: int
    placement: Placement
    header: Header
    """From the index."""
    images: tuple[int, ...]
    """Positions in the record."""
    fidelities: tuple[int, ...]
    restore: NDArray[np.void] | None = None
    """(N,) lengths and checksums of the record's restore blobs; None leaves them out."""

    def _spans(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (image, region, start, stop), in the order of `ranges`."""
        starts = self.header.starts()
        restore_stops = (
            None if self.restore is None else np.cumsum(self.restore["length"], dtype=np.int64)
        )
        for i, k in zip(self.images, self.fidelities, strict=True):
            for g in range(k):
                start = int(starts[i, g])
                yield i, g, start, start + int(self.header.lengths[i, g])
            if self.restore is not None and restore_stops is not None:
                stop = int(restore_stops[i])
                yield i, self.header.n_groups, stop - int(self.restore["length"][i]), stop

    def ranges(self) -> list[ByteRange]:
        """Return what must be read: per image its cells in order, then its restore blob."""
        return [r for _, g, a, b in self._spans() for r in self.placement.locate(g, a, b)]

    def cut(self, parts: Sequence[bytes]) -> Iterator["Pieces"]:
        """Yield the checked cells of every image, in the order of `images`."""
        where = _where(self.placement, self.record)
        it = iter(parts)
        blobs = [
            b"".join(next(it) for _ in self.placement.locate(g, a, b))
            for _, g, a, b in self._spans()
        ]
        at = iter(blobs)
        for i, k in zip(self.images, self.fidelities, strict=True):
            cells = [next(at) for _ in range(k)]
            for g, cell in enumerate(cells):
                self.header.check(i, g, cell, where=where)
            restore = None
            if self.restore is not None:
                restore = next(at)
                self._check_restore(i, restore, where)
            yield Pieces(
                record=self.record,
                image=i,
                opaque=bool(self.header.opaque[i]),
                cells=cells,
                restore=restore,
            )

    def _check_restore(self, image: int, blob: bytes, where: str) -> None:
        if self.restore is None:
            return
        region = self.header.n_groups
        word = int(place_words(self.header.seed, [image], region + 1)[0, region])
        if crc32c(blob) ^ word != int(self.restore["checksum"][image]):
            raise ChecksumError(f"{where}: restore blob of image {image} fails its checksum")


Want = Prefix | Cells


def _where(placement: Placement, record: int) -> str:
    return f"{placement.name}, record {record} (number {placement.ordinal} there)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The checked cells of one image, before they are joined to a file."""

    record: int
    image: int
    """Position in the record."""
    opaque: bool
    cells: list[bytes]
    restore: bytes | None = None

    def file(self, n_groups: int) -> bytes:
        """Return the file: a JPEG of these groups, or an opaque image's own bytes.

        Args:
            n_groups: Groups of the dataset; with all of them, metadata moves to the head.
        """
        if self.opaque:
            return self.cells[0]
        if len(self.cells) == n_groups:
            return assemble_full(self.cells)
        return b"".join((*self.cells, EOI))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReadPlan:
    """The requests for some wants; nothing of the images has moved yet."""

    wants: tuple[Want, ...]
    wanted: tuple[ByteRange, ...]
    edges: tuple[int, ...]
    """Want i reads `wanted[edges[i]:edges[i + 1]]`."""
    requests: tuple[Request, ...]
    cost: CostModel

    def __repr__(self) -> str:
        return (
            f"<ReadPlan: {self.n_requests} requests, {self.n_bytes} bytes, ${self.dollars:.7f}, "
            f"{self.seconds:.3f} s>"
        )

    @property
    def n_requests(self) -> int:
        """GETs."""
        return len(self.requests)

    @property
    def n_bytes(self) -> int:
        """Bytes of all bodies."""
        return sum(len(r.range) for r in self.requests)

    @property
    def dollars(self) -> float:
        """What the store bills, by the plan's cost model."""
        return self.cost.dollars(self.n_requests, self.n_bytes)

    @property
    def seconds(self) -> float:
        """How long the reads take, by the plan's cost model."""
        return self.cost.seconds(self.n_requests, self.n_bytes)


def plan(wants: Sequence[Want], *, cost: CostModel, have: Collection[ByteRange] = ()) -> ReadPlan:
    """Plan the reads of some wants, coalescing where a gap is cheaper than a request.

    Args:
        wants: What is asked for.
        cost: Prices and link.
        have: Ranges of wants that need no request: a cache holds them.
    """
    wanted: list[ByteRange] = []
    edges = [0]
    for want in wants:
        wanted.extend(want.ranges())
        edges.append(len(wanted))
    missing = [ByteRange(r.name, r.start, r.start) if r in have else r for r in wanted]
    return ReadPlan(
        wants=tuple(wants),
        wanted=tuple(wanted),
        edges=tuple(edges),
        requests=coalesce(
            missing, max_gap=break_even_gap(cost), max_size=cost.max_request
        ).requests,
        cost=cost,
    )


def assemble(
    p: ReadPlan, bodies: Sequence[bytes], have: Mapping[ByteRange, bytes] | None = None
) -> list[list[bytes]]:
    """Cut the bodies of a plan's requests into the parts that each want asked for.

    Args:
        p: The plan.
        bodies: What its requests were answered with.
        have: Bodies of the ranges that were planned with as present.

    Returns:
        Per want the bytes of its ranges; `want.cut(parts)` checks them and yields images.
    """
    parts = Coalesced(wanted=p.wanted, requests=p.requests).split(bodies)
    if have:
        parts = [have.get(r, part) for r, part in zip(p.wanted, parts, strict=True)]
    return [parts[a:b] for a, b in zip(p.edges, p.edges[1:], strict=False)]
