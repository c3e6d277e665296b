"""Plans: the byte ranges that some images need, and the way back from bodies to images.

Pure: the network is the gap between `plan` and `assemble`. A want is the images of one record that
somebody asks for; it knows the ranges of their bytes, and the checks of what comes. `Reader` plans
and assembles for datasets and loaders; the verifier uses the wants alone.

    wants ──plan──▶ ReadPlan.requests ──(store)──▶ bodies ──assemble──▶ bytes of each want's ranges
                                                              want.checked ──▶ cells of each image

A whole record is read as its prefix, whose header gives the length of every cell. Some images of a
record are read cell by cell, by the copy of the header that the index keeps. The ranges of all
wants are coalesced.

Example: a record of 4 images and 3 groups starts at byte 0 and has a header of 109 bytes. The cells
of group 1 have 10, 10, 10, 10 bytes and those of group 2 have 20, 30, 20, 20 bytes:

    header    group 1: image 0   1        2        3        group 2: 0   1        2        3
    0..109             109..119  119..129 129..139 139..149 149..169     169..199 199..219 219..239

Images 0, 1 and 3 at fidelity 2 are `WantedCells` with six ranges, an image after the other:
109..119, 149..169, 119..129, 169..199, 139..149, 219..239. Where a request costs more than 20 bytes
of gap, they are one request, 109..239: 130 bytes, of which 30 are image 2's. Where no gap is worth
reading, touching ranges are still merged, to three requests of 100 bytes: 109..129, 139..199,
219..239. All four images would be a `WantedPrefix` of one range, 0..239.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import ByteRange, Coalesced, Request, coalesce, crc32c, place_words
from pcrstore.cost import CostModel, break_even_gap
from pcrstore.errors import ChecksumError
from pcrstore.format import Header, Placement, parse_header
from pcrstore.jpeg import EOI, assemble_full

__all__ = ["ImageCells", "ReadPlan", "Want", "WantedCells", "WantedPrefix", "assemble", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPrefix:
    """All images of a record at one fidelity."""

    record: int
    """Position of the record in the dataset, for messages."""
    placement: Placement
    n_groups: int
    fidelity: int
    header: Header | None = None
    """The index's copy, needed where the placement has no header of its own."""
    by_group: bool = False
    """Ask for each group by itself, as a cache keeps them; touching ones are merged again."""

    def ranges(self) -> list[ByteRange]:
        """Return the ranges to read."""
        if self.by_group:
            return self.placement.groups(self.fidelity)
        return self.placement.prefix(self.fidelity)

    def views(self, fetched: Sequence[bytes]) -> Iterator[tuple[bool, list[NDArray[np.uint8]]]]:
        """Yield for each image True if it is opaque, and its checked cells as views.

        Args:
            fetched: The bytes of each of `ranges`.

        Raises:
            ChecksumError: The bytes are damaged, or have another length. For damaged cells this
                is raised while iterating, after the images before.
        """
        data = fetched[0] if len(fetched) == 1 else b"".join(fetched)
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

    def checked(self, fetched: Sequence[bytes]) -> Iterator["ImageCells"]:
        """Yield the checked cells of each image; see `views` for arguments and errors."""
        for i, (opaque, cells) in enumerate(self.views(fetched)):
            yield ImageCells(
                record=self.record, image=i, opaque=opaque, cells=[c.tobytes() for c in cells]
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCells:
    """Some images of a record, each at its own fidelity, with their restore blobs on request."""

    record: int
    placement: Placement
    header: Header
    """The index's copy."""
    images: tuple[int, ...]
    """Positions in the record."""
    fidelities: tuple[int, ...]
    restore: NDArray[np.void] | None = None
    """(N,) lengths and checksums of the record's restore blobs; None leaves the blobs out."""

    def _region_ranges(self) -> Iterator[tuple[int, int, int]]:
        """Yield (region, start, stop) for each image's cells in order, then its restore blob."""
        starts = self.header.starts()
        stops = None if self.restore is None else np.cumsum(self.restore["length"], dtype=np.int64)
        for i, k in zip(self.images, self.fidelities, strict=True):
            for g in range(k):
                start = int(starts[i, g])
                yield g, start, start + int(self.header.lengths[i, g])
            if self.restore is not None and stops is not None:
                stop = int(stops[i])
                yield self.header.n_groups, stop - int(self.restore["length"][i]), stop

    def ranges(self) -> list[ByteRange]:
        """Return the ranges to read, an image after the other."""
        return [r for place in self._region_ranges() for r in self.placement.locate(*place)]

    def checked(self, fetched: Sequence[bytes]) -> Iterator["ImageCells"]:
        """Yield the checked cells of each image, in the order of `images`.

        Args:
            fetched: The bytes of each of `ranges`.

        Raises:
            ChecksumError: The bytes are damaged. This is raised while iterating, after the images
                before.
        """
        where = _where(self.placement, self.record)
        it = iter(fetched)
        # A cell is in two ranges where a chunk of the zarr layout ends inside it.
        whole = iter(
            [
                b"".join(next(it) for _ in self.placement.locate(*place))
                for place in self._region_ranges()
            ]
        )
        for i, k in zip(self.images, self.fidelities, strict=True):
            cells = [next(whole) for _ in range(k)]
            for g, cell in enumerate(cells):
                self.header.check(i, g, cell, where=where)
            restore = None
            if self.restore is not None:
                restore = next(whole)
                self._check_restore(i, restore, int(self.restore["checksum"][i]), where)
            yield ImageCells(
                record=self.record,
                image=i,
                opaque=bool(self.header.opaque[i]),
                cells=cells,
                restore=restore,
            )

    def _check_restore(self, image: int, blob: bytes, checksum: int, where: str) -> None:
        region = self.header.n_groups
        word = int(place_words(self.header.seed, [image], region + 1)[0, region])
        if crc32c(blob) ^ word != checksum:
            raise ChecksumError(f"{where}: restore blob of image {image} fails its checksum")


Want = WantedPrefix | WantedCells
"""The images of one record that are asked for: all at one fidelity, or some, each at its own."""


def _where(placement: Placement, record: int) -> str:
    return f"{placement.name}, record {record} (number {placement.ordinal} there)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCells:
    """The checked cells of one image, before they are joined to a file."""

    record: int
    image: int
    """Position in the record."""
    opaque: bool
    cells: list[bytes]
    restore: bytes | None = None

    def file(self, n_groups: int) -> bytes:
        """Return the file: a JPEG of these groups, or an opaque image's own bytes.

        It has stored bytes and an EOI alone; `jpeg.decodable` adds a tail for strict decoders.

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
    """The requests for some wants; no byte of the images has moved yet."""

    wants: tuple[Want, ...]
    wanted: tuple[ByteRange, ...]
    """The ranges of all wants."""
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
        """Number of GETs."""
        return len(self.requests)

    @property
    def n_bytes(self) -> int:
        """Bytes of all bodies."""
        return sum(len(r.range) for r in self.requests)

    @property
    def dollars(self) -> float:
        """Price of the requests and bytes, by the plan's cost model."""
        return self.cost.dollars(self.n_requests, self.n_bytes)

    @property
    def seconds(self) -> float:
        """Duration of the reads, by the plan's cost model."""
        return self.cost.seconds(self.n_requests, self.n_bytes)


def plan(wants: Sequence[Want], *, cost: CostModel, have: Collection[ByteRange] = ()) -> ReadPlan:
    """Plan the reads of some wants, coalescing where a gap is cheaper than a request.

    Args:
        wants: Images of records.
        cost: Prices and link.
        have: Ranges of wants that need no request, because a cache holds them.
    """
    wanted: list[ByteRange] = []
    edges = [0]
    for want in wants:
        wanted.extend(want.ranges())
        edges.append(len(wanted))
    # An empty range is in no request, and the others keep their positions.
    missing = [ByteRange(r.name, r.start, r.start) if r in have else r for r in wanted]
    merged = coalesce(missing, max_gap=break_even_gap(cost), max_size=cost.max_request)
    return ReadPlan(
        wants=tuple(wants),
        wanted=tuple(wanted),
        edges=tuple(edges),
        requests=merged.requests,
        cost=cost,
    )


def assemble(
    p: ReadPlan, bodies: Sequence[bytes], have: Mapping[ByteRange, bytes] | None = None
) -> list[list[bytes]]:
    """Return for each want the bytes of its ranges, which `want.checked` takes.

    Args:
        p: The plan.
        bodies: The body of each of its requests.
        have: Bytes of the ranges that were planned as present.
    """
    fetched = Coalesced(wanted=p.wanted, requests=p.requests).split(bodies)
    if have:
        fetched = [have.get(r, data) for r, data in zip(p.wanted, fetched, strict=True)]
    return [fetched[a:b] for a, b in zip(p.edges, p.edges[1:], strict=False)]
