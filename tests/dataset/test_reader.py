"""What a decoder takes of records that are chosen; damage is read again."""

import pytest
from small_datasets import a_dataset

from pcrstore.dataset.fetch import ATTEMPTS, checked
from pcrstore.dataset.reader import Chosen, Reader
from pcrstore.errors import ChecksumError
from pcrstore.jpeg.end_of_band import ending

G = 5
IMAGES = (0, 2)


def decodable(data, k):
    """A JPEG below full fidelity ends in scans that say that no more come."""
    return data[:-2] + ending(data) if k < G and data.startswith(b"\xff\xd8") else data


class Source:
    """The first record of a small dataset, whose ranges come damaged the first few times."""

    def __init__(self, layout="record", *, images=None, fidelity=3, n_damaged=0):
        self.ds = a_dataset(layout, opaque=(1,))
        self.chosen = Chosen(part=0, record=0, images=images, fidelity=fidelity)
        self.n_damaged = n_damaged
        self.n_read = 0
        k = fidelity if isinstance(fidelity, tuple) else (fidelity,) * 99
        first, stop = self.ds.catalog.parts([0])[0].image_edges[:2].tolist()
        positions = range(first, stop) if images is None else images
        self.expected = [
            decodable(self.ds.fetch([i], k[n])[0], k[n]) for n, i in enumerate(positions)
        ]

    def files(self, monkeypatch):
        """Read all files; the last byte is wrong the first `n_damaged` times."""
        read = Reader._read

        def damaged(reader, wants, **options):
            self.n_read += 1
            parts = read(reader, wants, **options)
            if self.n_read <= self.n_damaged:
                last = bytearray(parts[-1][-1])
                last[-1] ^= 1
                parts[-1] = [*parts[-1][:-1], bytes(last)]
            return parts

        monkeypatch.setattr(Reader, "_read", damaged)
        [files] = self.ds.reader().files([self.chosen])
        return files


SOME = {"images": IMAGES, "fidelity": (2, 5)}
KINDS = [{}, {"fidelity": G}, {"fidelity": 1}, SOME, {"images": IMAGES, "fidelity": 3}]


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_image_is_what_the_dataset_gives(layout, kind, monkeypatch):
    source = Source(layout, **kind)
    assert source.files(monkeypatch) == source.expected
    assert source.n_read == 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("n_damaged", range(ATTEMPTS + 1))
def test_damage_is_read_again_until_it_is_real(kind, n_damaged, monkeypatch):
    source = Source(n_damaged=n_damaged, **kind)
    if n_damaged < ATTEMPTS:
        assert source.files(monkeypatch) == source.expected
        assert source.n_read == 1 + n_damaged
    else:
        with pytest.raises(ChecksumError):
            source.files(monkeypatch)
        assert source.n_read == ATTEMPTS


@pytest.mark.parametrize("n_damaged", [0, 1, ATTEMPTS])
def test_only_what_is_damaged_is_read_again_and_what_comes_before_is_given(n_damaged, monkeypatch):
    ds = a_dataset()
    chosen = [
        Chosen(part=p, record=r, images=None, fidelity=3) for p, r in [(0, 0), (0, 1), (1, 0)]
    ]
    expected = list(ds.reader().files(chosen))
    asked, read = [], Reader._read

    def damaged(reader, wants, **options):
        asked.append([want.record for want in wants])
        parts = read(reader, wants, **options)
        if len(asked) <= n_damaged:
            of = asked[-1].index(1)
            parts[of] = [bytes(len(part)) for part in parts[of]]
        return parts

    monkeypatch.setattr(Reader, "_read", damaged)
    files = ds.reader().files(chosen)
    if n_damaged < ATTEMPTS:
        assert list(files) == expected
    else:
        assert next(files) == expected[0]
        with pytest.raises(ChecksumError):
            next(files)
    assert asked == [[0, 1, 2]] + [[1]] * min(n_damaged, ATTEMPTS - 1)


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
