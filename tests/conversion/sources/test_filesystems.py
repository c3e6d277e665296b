"""Every file arrives whole from any fsspec file system, however many threads read it."""

import bz2
import hashlib
import io
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from flows import listed, memory, photo, put_all, write_tree

import pcrstore
from pcrstore import Options
from pcrstore.core.ranges import ByteRange
from pcrstore.storage.fsspec_store import BlockingStore
from pcrstore.storage.open import open_store

OPTIONS = Options(policy="opaque", record_images=30)
"""Policy opaque takes whatever is read, so that wrong bytes show. A record is read by 8 threads."""


@pytest.fixture
def eager_threads():
    """Switch between threads as often as can be, so that they meet in unsafe places."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def files():
    return {f"{'cat' if i % 2 else 'dog'}/{i:02d}.jpg": photo(i, size=(90, 120)) for i in range(60)}


def digests(contents):
    return {key: hashlib.sha256(data).hexdigest() for key, data in contents.items()}


def tar_of(files, *, compress=None, prefix=""):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compress or ''}") as tar:
        for key, data in files.items():
            member = tarfile.TarInfo(prefix + key)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zip_of(files, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for key, data in files.items():
            archive.writestr(key, data)
    return out.getvalue()


def in_memory(files):
    url = memory()
    put_all(open_store(url), files)
    return url


ARCHIVES = {
    "tar": tar_of,
    "tar.gz": lambda files: tar_of(files, compress="gz"),
    "zip": zip_of,
    "zip-deflated": lambda files: zip_of(files, zipfile.ZIP_DEFLATED),
}


def archive_url(kind, files, folder):
    path = folder / f"in.{kind}"
    path.write_bytes(ARCHIVES[kind](files))
    return f"{kind[:3]}://::file://{path}"


def libarchive_url(files, folder):
    pytest.importorskip("libarchive")
    path = folder / "in.tar.bz2"
    path.write_bytes(bz2.compress(tar_of(files)))
    return f"libarchive://::file://{path}"


SOURCES = {
    **{
        kind: lambda files, folder, kind=kind: archive_url(kind, files, folder) for kind in ARCHIVES
    },
    "libarchive": libarchive_url,
    "file": lambda files, folder: f"file://{write_tree(folder / 'in', files)}",
    "memory": lambda files, _: in_memory(files),
    "dir-of-file": lambda files, folder: f"dir::file://{write_tree(folder / 'in', files)}",
    "dir-below-file": lambda files, folder: (
        f"dir://in::file://{write_tree(folder / 'in', files).parent}"
    ),
    "dir-of-tar": lambda files, folder: f"dir::{archive_url('tar', files, folder)}",
    "coroutines-of-file": lambda files, folder: (
        f"asyncwrapper::file://{write_tree(folder / 'in', files)}"
    ),
    "coroutines-of-tar": lambda files, folder: f"asyncwrapper::{archive_url('tar', files, folder)}",
    "simplecache-of-file": lambda files, folder: (
        f"simplecache::file://{write_tree(folder / 'in', files)}"
    ),
    "simplecache-of-tar": lambda files, folder: f"simplecache::{archive_url('tar', files, folder)}",
    "filecache-of-file": lambda files, folder: (
        f"filecache::file://{write_tree(folder / 'in', files)}"
    ),
    "filecache-of-zip": lambda files, folder: f"filecache::{archive_url('zip', files, folder)}",
}


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_eight_threads_read_every_file_as_it_is(make, files, tmp_path):
    url = make(files, tmp_path)
    for round_ in range(3):
        out = tmp_path / f"out{round_}"
        report = pcrstore.convert(url, out, OPTIONS, workers=1)
        assert report.problems == ()
        ds = pcrstore.open(str(out))
        originals = ds.fetch(range(len(ds)), fidelity="original")
        assert digests(dict(zip(ds.keys, originals, strict=True))) == digests(files)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_worker_processes_open_archives_of_their_own(kind, files, tmp_path):
    url = archive_url(kind, files, tmp_path)
    pcrstore.convert(url, tmp_path / "out", OPTIONS, workers=2)
    ds = pcrstore.open(str(tmp_path / "out"))
    originals = ds.fetch(range(len(ds)), fidelity="original")
    assert digests(dict(zip(ds.keys, originals, strict=True))) == digests(files)


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_in_a_bucket_is_a_source(kind, files, s3_server, tmp_path):
    pytest.importorskip("s3fs")
    url = f"{s3_server.url}/in.{kind}"
    open_store(s3_server.url, s3_server.options).put(f"in.{kind}", ARCHIVES[kind](files))
    options = {"s3": s3_server.options}
    pcrstore.convert(
        f"{kind}://::{url}", tmp_path / "out", OPTIONS, workers=1, source_options=options
    )
    ds = pcrstore.open(str(tmp_path / "out"))
    originals = ds.fetch(range(len(ds)), fidelity="original")
    assert digests(dict(zip(ds.keys, originals, strict=True))) == digests(files)


@pytest.mark.usefixtures("eager_threads")
def test_ranges_and_stores_of_one_file_system_do_not_mix(files, tmp_path):
    """Two stores read members of one archive object, each from several threads."""
    (tmp_path / "in.tar").write_bytes(tar_of(files))
    archive = fsspec.filesystem("tar", fo=str(tmp_path / "in.tar"))
    stores = [open_store(folder, filesystem=archive) for folder in ("cat", "dog")]
    found = {key: (stores[key.startswith("dog")], key[4:]) for key in files}

    def middle(key):
        store, name = found[key]
        return store.get_ranges([ByteRange(name, 5, 900), ByteRange(name, 0, 9)])

    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(middle, files))
    assert read == [[data[5:900], data[:9]] for data in files.values()]


DOTTED = {"./cat/1.jpg": b"1", "./dog/./2.jpg": b"22", "dog/3.jpg": b"333", "./.git/x.jpg": b"x"}


@pytest.mark.parametrize(
    ("kind", "root", "expected"),
    [
        ("tar", "", {"cat/1.jpg": b"1", "dog/2.jpg": b"22", "dog/3.jpg": b"333"}),
        ("tar", "dog", {"2.jpg": b"22", "3.jpg": b"333"}),
        ("zip", "", {"cat/1.jpg": b"1", "dog/2.jpg": b"22", "dog/3.jpg": b"333"}),
    ],
    ids=["tar", "a-folder-in-a-tar", "zip"],
)
def test_members_whose_names_begin_with_a_dot_and_a_slash_are_not_hidden(
    kind, root, expected, tmp_path
):
    """As `tar -cf in.tar .` writes them."""
    scheme, rest = archive_url(kind, DOTTED, tmp_path).split("://::")
    url = f"{scheme}://{root}::{rest}"
    listing = listed(url)
    assert {f.key: f.n_bytes for f in listing.files} == {k: len(d) for k, d in expected.items()}
    assert listing.n_hidden == (0 if root else 1)
    store = open_store(url)
    assert {key: store.get(key, max_bytes=1000) for key in expected} == expected
    assert store.get_ranges([ByteRange(key, 0, 1) for key in expected]) == [
        data[:1] for data in expected.values()
    ]


def test_a_folder_in_a_dotted_archive_is_listed_by_its_prefix(tmp_path):
    store = open_store(archive_url("tar", DOTTED, tmp_path))
    assert isinstance(store, BlockingStore)
    assert [e.name for e in store.list("dog")] == ["dog/2.jpg", "dog/3.jpg"]
    assert store.list("do") == []
