"""What was read is cut once, by whoever is first, and read again where it is damaged."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_datasets import a_dataset

from pcrstore.errors import ChecksumError
from pcrstore.fetching import ATTEMPTS
from pcrstore.packed import Packed, checked
from pcrstore.reader import Chosen
from pcrstore.tail import ending

G = 5
IMAGES = (0, 2)


def decodable(data, k):
    """A JPEG below full fidelity ends in scans that say that no more come."""
    return data[:-2] + ending(data) if k < G and data.startswith(b"\xff\xd8") else data


class Source:
    """A record of a small dataset, whose ranges come damaged the first few times."""

    def __init__(self, layout="record", *, images=None, fidelity=3, damage=()):
        self.ds = a_dataset(layout, opaque=(1,))
        self._reader = self.ds.reader()
        chosen = Chosen(part=0, record=0, images=images, fidelity=fidelity)
        [self.want] = self._reader._chosen([chosen])
        self._damage = list(damage)
        self.n_read = 0
        k = fidelity if isinstance(fidelity, tuple) else (fidelity,) * 99
        first, stop = self.ds.catalog.parts([0])[0].image_edges[:2].tolist()
        positions = range(first, stop) if images is None else images
        self.expected = [
            decodable(self.ds.fetch([i], k[n])[0], k[n]) for n, i in enumerate(positions)
        ]

    def read(self):
        """Read all ranges; `damage` says at which byte from the end each time is wrong."""
        self.n_read += 1
        parts = self._reader._read([self.want])[0]
        if self._damage:
            at = self._damage.pop(0)
            last = bytearray(parts[-1])
            last[-at] ^= 1
            parts = [*parts[:-1], bytes(last)]
        return parts

    def packed(self):
        return Packed(self.want, self.read(), G, self.read)


SOME = {"images": IMAGES, "fidelity": (2, 5)}
KINDS = [{}, {"fidelity": G}, {"fidelity": 1}, SOME, {"images": IMAGES, "fidelity": 3}]


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_image_is_what_the_dataset_gives(layout, kind):
    source = Source(layout, **kind)
    packed = source.packed()
    assert [packed.file(i) for i in range(len(source.expected))] == source.expected
    assert [packed.file(i) for i in range(len(source.expected))] == source.expected
    assert source.n_read == 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("n_damaged", range(ATTEMPTS + 1))
def test_damage_is_read_again_until_it_is_real(kind, n_damaged):
    source = Source(damage=[1] * n_damaged, **kind)
    packed = source.packed()
    images = range(len(source.expected))
    if n_damaged < ATTEMPTS:
        assert [packed.file(i) for i in images] == source.expected
        assert source.n_read == 1 + n_damaged
    else:
        with pytest.raises(ChecksumError):
            [packed.file(i) for i in images]
        assert source.n_read == ATTEMPTS


def test_a_record_that_was_read_again_serves_its_other_images():
    source = Source(damage=[1])
    packed = source.packed()
    last = len(source.expected) - 1
    assert packed.file(last) == source.expected[last]
    assert source.n_read == 2
    assert [packed.file(i) for i in range(last)] == source.expected[:last]
    assert source.n_read == 2


@pytest.mark.parametrize("kind", [{"damage": [1]}, {**SOME, "damage": [1]}], ids=["record", "some"])
def test_many_threads_cut_at_once(kind):
    source = Source(**kind)
    packed, together = source.packed(), threading.Barrier(8)

    def all_files(_):
        together.wait(5)
        return [packed.file(i) for i in range(len(source.expected))]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(all_files, range(8))) == [source.expected] * 8
    if kind.get("images"):
        assert source.n_read == 2  # the first to come opens it for all


def test_what_was_read_is_let_go_when_files_are_made_of_it():
    source = Source(**SOME)
    packed = source.packed()
    size = sum(map(len, source.read()))
    assert packed.n_bytes == size > 0
    assert packed._parts
    packed.file(0)
    assert not packed._parts
    assert packed.n_bytes == size


def test_checked_reads_twice_more_and_raises_the_last():
    seen = []

    def cut(parts):
        seen.append(parts)
        if parts != [b"good"]:
            raise ChecksumError(f"{parts}")
        return "cut"

    good = iter([[b"bad"], [b"good"]])
    assert checked(cut, [b"worse"], lambda: next(good)) == "cut"
    assert seen == [[b"worse"], [b"bad"], [b"good"]]
    with pytest.raises(ChecksumError, match="bad"):
        checked(cut, [b"worse"], lambda: [b"bad"])
