"""Only files that a cache made are counted, read or removed; other files and links are not."""

import warnings

import pytest
from cache_folders import KB, URL, Clock, at, body, counted, files, made, on_disk, temporary_of

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import StoreError
from pcrstore.storage.cache.cache import Cache


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((URL, ByteRange("1 2", 3, 13)), (URL, ByteRange("2", 3, 13))),
        ((URL, ByteRange("a", 1, 11)), (URL, ByteRange("a", 11, 21))),
        ((URL, ByteRange("a", 1, 11)), (URL, ByteRange("a", 1, 12))),
        ((URL, ByteRange("b/a", 0, 10)), (f"{URL}/b", ByteRange("a", 0, 10))),
        ((f"{URL} 0", ByteRange("a", 0, 10)), (URL, ByteRange("0 a", 0, 10))),
        ((URL, ByteRange("\ud800", 0, 10)), (URL, ByteRange("?", 0, 10))),
    ],
)
def test_no_two_ranges_share_a_file(folder, one, two):
    cache = Cache(folder)
    cache.of(one[0]).put(one[1], b"0123456789")
    assert cache.of(two[0]).get(two[1]) is None
    assert cache.of(one[0]).get(one[1]) == b"0123456789"


@pytest.mark.parametrize(
    ("age", "lock", "stays"),
    [(0, True, True), (3500, True, True), (3700, True, False), (0, False, False)],
    ids=["living", "living-long", "too-old", "its-writer-died"],
)
def test_a_sweep_takes_temporaries_that_were_left_behind(folder, age, lock, stays):
    ds = Cache(folder, limit=3 * KB).of(URL)
    ds.put(at(0), body(0))
    with temporary_of(folder, age=age, lock=lock) as path:
        ds.put(at(1), body(1))
        assert path.exists()  # no sweep was needed
        ds.put(at(2), body(2))
        ds.put(at(3), body(3))
        assert path.exists() == stays
        assert counted(folder) == on_disk(folder) <= 3 * KB


def test_names_are_hashes_and_tell_nothing(folder):
    Cache(folder).of(URL).put(ByteRange("objects/../../secret", 0, 3), b"abc")
    names = {p.name for p in folder.rglob("*")} - {"pcrstore-cache", "url"}
    assert all(set(name) <= set("0123456789abcdef") for name in names)
    assert [p.read_text() for p in folder.glob("*/url")] == [URL]


@pytest.mark.parametrize("what", ["body", "dataset", "marker"])
def test_links_are_not_followed(folder, tmp_path, what):
    ds = made(folder, Clock(), 1, 10 * KB)
    secret = tmp_path / "secret"
    if what == "dataset":
        path = next(p for p in folder.iterdir() if p.is_dir())
        secret.mkdir()
        (secret / "3f").mkdir()
        (secret / "3f" / ("a" * 38)).write_bytes(body(0))
        path.rename(tmp_path / "away")
    else:
        path = files(folder)[0] if what == "body" else folder / "pcrstore-cache"
        secret.write_bytes(body(0))
        path.unlink()
    path.symlink_to(secret)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ds.get(at(0)) is None or what == "marker"
        ds.put(at(1), body(1))
        if what == "marker":
            with pytest.raises(StoreError):
                ds._cache.clear()
        else:
            ds._cache.clear()
    assert (secret / "3f" / ("a" * 38) if what == "dataset" else secret).read_bytes() == body(0)


def test_clear_leaves_what_is_being_written_and_what_is_not_ours(folder):
    cache = Cache(folder)
    cache.of(URL).put(at(0), body(0))
    dataset = next(p for p in folder.iterdir() if p.is_dir())
    fan = files(folder)[0].parent
    own = [
        folder / "notes.txt",
        dataset / "notes.txt",
        fan / "notes.txt",
        fan / ("a" * 37),
        fan / ("A" * 38),
        fan / "tmp-1-x",
    ]
    for path in own:
        path.write_text("mine")
    (fan / ("b" * 38)).symlink_to(own[0])
    (folder / ("z" * 32) / "3f").mkdir(parents=True)
    own.append(folder / ("z" * 32) / "3f" / ("c" * 38))
    own[-1].write_text("mine")
    with temporary_of(folder, lock=True) as living:
        assert cache.clear().n_entries == 1
        assert living.exists()
    assert counted(folder) == KB
    assert [p.read_text() for p in own] == ["mine"] * len(own)
    assert cache.clear().n_entries == 0
    assert not living.exists()
    assert counted(folder) == 0
