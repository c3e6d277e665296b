"""A plan asks for what is wanted and no more, and its bodies come back as the images asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.checksum import crc32c, place_words, record_seed
from pcrstore.cost.model import DEFAULT_COST, CostModel, Link, Prices
from pcrstore.dataset.planner import WantedCells, WantedPrefix, assemble, plan
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.format.index import RESTORE_DTYPE, Run
from pcrstore.format.placement import ArrayPlacement, ObjectPlacement
from pcrstore.format.record import RecordImage, build_record
from pcrstore.jpeg.markers import EOI

UID = bytes(range(16)).hex()
ARRAYS = ("group_1", "group_2", "group_3", "restore")
FREE = CostModel(  # a request costs nothing, so that no gap is worth reading
    prices=Prices(name="none", per_get=0.0, per_byte=1.0, source="test"),
    link=Link(bandwidth=1e6, per_connection=1e6, latency=0.0, concurrency=1),
    per_second=0.0,
)


class World:
    """Three records of four images and three groups, in one layout, as a store would hold them."""

    def __init__(self, layout):
        rng = np.random.default_rng(5)
        self.layout, self.records, self.objects = layout, [], {}
        positions = [0] * 4
        chunk_bytes = (16, 40, 1000, 30)
        streams = [b""] * 4
        for ordinal in range(3):
            seed = record_seed(bytes.fromhex(UID), ordinal)
            images = [
                RecordImage(
                    groups=tuple(rng.bytes(int(rng.integers(1, 20))) for _ in range(3)),
                    restore=rng.bytes(int(rng.integers(0, 9))),
                    opaque=False,
                )
                for _ in range(4)
            ]
            images[2] = RecordImage(
                groups=(b"file%d" % ordinal, b"", b""), restore=b"", opaque=True
            )
            header, regions = build_record(images, seed=seed)
            restore = np.zeros(4, RESTORE_DTYPE)
            restore["length"] = [len(im.restore) for im in images]
            words = place_words(seed, 4, 4)[:, 3]
            restore["checksum"] = [crc32c(im.restore) for im in images] ^ words
            lengths = tuple(map(len, regions))
            if layout == "record":
                data = self.objects.setdefault("objects/a", b"")
                placement = ObjectPlacement(
                    runs=(Run(name="objects/a", uid=UID, n_bytes=10_000),),
                    ordinal=ordinal,
                    n_images=4,
                    starts=(len(data),),
                    lengths=lengths,
                )
                self.objects["objects/a"] = data + header.encode() + b"".join(regions)
            else:
                placement = ArrayPlacement(
                    runs=tuple(
                        Run(name=f"zarr/a/{name}", uid=UID, n_bytes=10_000, chunk=size)
                        for name, size in zip(ARRAYS, chunk_bytes, strict=True)
                    ),
                    ordinal=ordinal,
                    n_images=4,
                    starts=tuple(positions),
                    lengths=lengths,
                )
            streams = [s + r for s, r in zip(streams, regions, strict=True)]
            positions = [len(s) for s in streams]
            self.records.append((images, header, placement, restore))
        if layout == "zarr":
            for name, size, data in zip(ARRAYS, chunk_bytes, streams, strict=True):
                for c in range(-(-len(data) // size)):
                    self.objects[f"zarr/a/{name}/c/{c}"] = data[c * size : (c + 1) * size]

    def bodies(self, planned):
        return [self.objects[r.range.name][r.range.start : r.range.stop] for r in planned.requests]

    def prefix(self, record, k):
        _, header, placement, _ = self.records[record]
        return WantedPrefix(
            record=record,
            placement=placement,
            n_groups=3,
            fidelity=k,
            header=None if placement.has_header else header,
        )

    def some(self, record, wanted, *, restore=False):
        _, header, placement, blobs = self.records[record]
        return WantedCells(
            record=record,
            placement=placement,
            header=header,
            images=tuple(i for i, _ in wanted),
            fidelities=tuple(k for _, k in wanted),
            restore=blobs if restore else None,
        )


LAYOUTS = ["record", "zarr"]


@pytest.fixture(scope="module", params=LAYOUTS)
def world(request):
    return World(request.param)


def run(world, wants, cost=DEFAULT_COST):
    planned = plan(wants, cost=cost)
    parts = assemble(planned, world.bodies(planned))
    return planned, [list(w.checked(p)) for w, p in zip(wants, parts, strict=True)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_whole_records_come_back_at_any_fidelity(world, k):
    _, found = run(world, [world.prefix(r, k) for r in range(3)])
    for r, found_images in enumerate(found):
        images = world.records[r][0]
        assert [p.cells for p in found_images] == [list(im.groups[:k]) for im in images]
        assert [p.opaque for p in found_images] == [im.opaque for im in images]
        assert [(p.record, p.image) for p in found_images] == [(r, i) for i in range(4)]
        assert found_images[2].file(3) == b"file%d" % r


def test_a_whole_record_is_one_request_where_it_is_one_run():
    world = World("record")
    planned = plan([world.prefix(1, 2)], cost=FREE)
    _, header, placement, _ = world.records[1]
    (request,) = planned.requests
    assert (request.range.start,) == placement.starts
    assert len(request.range) == header.size + sum(placement.lengths[:2])
    assert (planned.n_requests, planned.n_bytes) == (1, len(request.range))


wants = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.dictionaries(st.integers(0, 3), st.integers(1, 3), min_size=1),
        st.booleans(),
    ),
    max_size=5,
)


@settings(max_examples=60)
@given(layout=st.sampled_from(LAYOUTS), wanted=wants, cost=st.sampled_from([DEFAULT_COST, FREE]))
def test_some_images_come_back_each_at_its_fidelity(layout, wanted, cost):
    world = WORLDS[layout]
    asked = [world.some(r, list(images.items()), restore=x) for r, images, x in wanted]
    planned, found = run(world, asked, cost)
    for (r, images, restore), found_images in zip(wanted, found, strict=True):
        source = world.records[r][0]
        assert [p.cells for p in found_images] == [
            list(source[i].groups[:k]) for i, k in images.items()
        ]
        assert [p.restore for p in found_images] == [
            source[i].restore if restore else None for i in images
        ]
    if cost is FREE:  # no byte that was not wanted, none twice
        bytes_wanted = {
            (r.name, at) for want in asked for r in want.ranges() for at in range(r.start, r.stop)
        }
        assert planned.n_bytes == len(bytes_wanted)


WORLDS = {layout: World(layout) for layout in LAYOUTS}


def test_plans_price_themselves(world):
    planned = plan([world.prefix(0, 3)], cost=FREE)
    assert planned.dollars == FREE.dollars(planned.n_requests, planned.n_bytes)
    assert planned.seconds == FREE.seconds(planned.n_requests, planned.n_bytes)


def test_no_wants_no_requests():
    planned = plan([], cost=DEFAULT_COST)
    assert (planned.n_requests, planned.n_bytes, planned.dollars, planned.seconds) == (0, 0, 0, 0)
    assert assemble(planned, []) == []


def damaged(world, wants, at):
    """Cut what a store answers whose byte number `at` of all bodies is flipped."""
    planned = plan(wants, cost=DEFAULT_COST)
    bodies = world.bodies(planned)
    for i, body in enumerate(bodies):
        if at < len(body):
            bodies[i] = body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :]
            break
        at -= len(body)
    parts = assemble(planned, bodies)
    return [list(w.checked(p)) for w, p in zip(wants, parts, strict=True)]


def test_every_flipped_byte_of_a_prefix_is_detected(world):
    wants = [world.prefix(1, 3)]
    for at in range(plan(wants, cost=DEFAULT_COST).n_bytes):
        with pytest.raises(FormatError):
            damaged(world, wants, at)


def test_every_flipped_byte_of_scattered_cells_is_detected(world):
    wants = [world.some(0, [(0, 3), (1, 1), (3, 2)], restore=True)]
    for at in range(plan(wants, cost=FREE).n_bytes):
        planned = plan(wants, cost=FREE)
        bodies, left = world.bodies(planned), at
        for i, body in enumerate(bodies):
            if left < len(body):
                bodies[i] = body[:left] + bytes([body[left] ^ 1]) + body[left + 1 :]
                break
            left -= len(body)
        (parts,) = assemble(planned, bodies)
        with pytest.raises(ChecksumError, match="checksum"):
            list(wants[0].checked(parts))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_short_bodies_are_detected(world, n):
    wants = [world.prefix(0, 1)]
    planned = plan(wants, cost=DEFAULT_COST)
    (parts,) = assemble(planned, [b[:n] for b in world.bodies(planned)])
    with pytest.raises(ChecksumError):
        list(wants[0].checked(parts))


def test_another_record_of_the_same_shape_is_refused(world):
    """As after a mistake in an offset, or a stale object: right bytes, wrong place."""
    want = world.prefix(0, 3)
    moved = replace(want, placement=replace(want.placement, ordinal=1))
    (parts,) = assemble(plan([want], cost=FREE), world.bodies(plan([want], cost=FREE)))
    if want.header is None:
        with pytest.raises(ChecksumError, match="header fails its checksum"):
            list(moved.checked(parts))
    else:
        other = replace(want, header=world.records[1][1])
        with pytest.raises(ChecksumError):
            list(other.checked(parts))


def test_files_end_where_jpegs_do(world):
    _, (found_images,) = run(world, [world.prefix(0, 2)])
    first = world.records[0][0][0]
    assert found_images[0].file(3) == b"".join(first.groups[:2]) + EOI
    assert found_images[2].file(3) == b"file0"  # an opaque file is handed out as it is


@settings(max_examples=40)
@given(layout=st.sampled_from(LAYOUTS), k=st.integers(1, 3), kept=st.sets(st.integers(0, 20)))
def test_what_a_cache_has_is_not_asked_for(layout, k, kept):
    world = WORLDS[layout]
    asked = [replace(world.prefix(r, k), by_group=True) for r in range(3)]
    ranges = [r for want in asked for r in want.ranges()]
    have = {r: world.objects[r.name][r.start : r.stop] for i, r in enumerate(ranges) if i in kept}
    planned = plan(asked, cost=FREE, have=have)
    assert planned.n_bytes == sum(len(r) for r in ranges if r not in have)
    for request in planned.requests:
        for r in have:
            apart = request.range.stop <= r.start or r.stop <= request.range.start
            assert request.range.name != r.name or apart or not len(r)
    parts = assemble(planned, world.bodies(planned), have)
    for want, got, (images, *_) in zip(asked, parts, world.records, strict=True):
        assert [p.cells for p in want.checked(got)] == [list(im.groups[:k]) for im in images]


@pytest.mark.parametrize("k", [1, 3])
def test_groups_of_a_record_are_asked_for_in_one_request(k):
    world = World("record")
    by_group = replace(world.prefix(1, k), by_group=True)
    assert len(by_group.ranges()) == k
    assert [r.range for r in plan([by_group], cost=FREE).requests] == world.prefix(1, k).ranges()


def example():
    """The record of the planner's docstring: 4 images, 3 groups."""
    lengths = [[10, 20, 1], [10, 30, 1], [10, 20, 1], [10, 20, 1]]
    images = [
        RecordImage(groups=tuple(bytes(n) for n in row), restore=b"", opaque=False)
        for row in lengths
    ]
    header, regions = build_record(images, seed=record_seed(bytes.fromhex(UID), 0))
    placement = ObjectPlacement(
        runs=(Run(name="a", uid=UID, n_bytes=1000),),
        ordinal=0,
        n_images=4,
        starts=(0,),
        lengths=tuple(map(len, regions)),
    )
    return header, placement


EXAMPLE = {"gap-read": (20, [(109, 239)]), "no-gap": (0, [(109, 129), (139, 199), (219, 239)])}


@pytest.mark.parametrize(("gap", "requests"), EXAMPLE.values(), ids=EXAMPLE)
def test_the_example_of_three_images_of_a_record_of_four(gap, requests):
    header, placement = example()
    want = WantedCells(
        record=0, placement=placement, header=header, images=(0, 1, 3), fidelities=(2, 2, 2)
    )
    assert [(r.start, r.stop) for r in want.ranges()] == [
        *((109, 119), (149, 169), (119, 129), (169, 199), (139, 149), (219, 239))
    ]
    prices = replace(FREE.prices, per_get=float(gap))  # a request costs as much as so many bytes
    planned = plan([want], cost=replace(FREE, prices=prices))
    assert [(r.range.start, r.range.stop) for r in planned.requests] == requests


def test_the_example_of_all_images_of_a_record_of_four():
    _, placement = example()
    [whole] = WantedPrefix(record=0, placement=placement, n_groups=3, fidelity=2).ranges()
    assert (whole.start, whole.stop) == (0, 239)
