"""Folders as stores: nothing half-written is ever seen, whatever the file system lacks."""

import errno
import os

import pytest

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import AccessDeniedError, FormatError, NotFoundError, OptionError, StoreError
from pcrstore.storage import local as stores_local
from pcrstore.storage.local import TEMPORARY, LocalStore
from pcrstore.storage.open import open_store


@pytest.fixture
def store(tmp_path):
    return LocalStore(str(tmp_path / "root"))


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_nothing_is_left_beside_what_was_written(store, tmp_path):
    store.put("a/b", b"1")
    store.create("a/c", b"2")
    store.create("a/c", b"3")
    assert files(tmp_path) == ["root/a/b", "root/a/c"]


def test_what_a_dead_writer_left_is_not_listed(store, tmp_path):
    store.put("a/b", b"1")
    (tmp_path / "root" / "a" / f"{TEMPORARY}123-abc").write_bytes(b"half")
    assert [entry.name for entry in store.list("")] == ["a/b"]


@pytest.mark.parametrize("verb", ["put", "create"])
def test_a_write_that_fails_changes_nothing(store, tmp_path, monkeypatch, verb):
    store.put("a", b"before")

    def full(_file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stores_local.os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        getattr(store, verb)("a", b"after")
    assert store.get("a", max_bytes=1000) == b"before"
    assert files(tmp_path) == ["root/a"]


@pytest.mark.parametrize("verb", ["put", "create"])
def test_the_file_is_synced_before_it_is_seen_and_its_folder_after(store, monkeypatch, verb):
    store.put("x", b"")
    order = []
    for name in ("fsync", "link"):
        real = getattr(os, name)

        def noted(*args, name=name, real=real):
            order.append(name)
            return real(*args)

        monkeypatch.setattr(stores_local.os, name, noted)
    getattr(store, verb)("a", b"1")
    assert order == (["fsync", "link", "fsync"] if verb == "create" else ["fsync", "fsync"])


def test_a_file_system_without_links_still_has_one_winner(store, monkeypatch, tmp_path):
    def no_links(*_args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(stores_local.os, "link", no_links)
    assert store.create("a", b"1") is True
    assert store.create("a", b"2") is False
    assert store.get("a", max_bytes=1000) == b"1"
    assert files(tmp_path) == ["root/a"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_unwritable_target_is_denied(store, monkeypatch, number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stores_local.Path, "mkdir", refuse)
    with pytest.raises(AccessDeniedError, match="folder/a"):
        store.put("folder/a", b"")


def test_a_file_where_a_folder_should_be_is_an_error(store):
    store.put("a", b"1")
    with pytest.raises(StoreError):
        store.put("a/b", b"2")
    with pytest.raises(NotFoundError):
        store.get("a/b", max_bytes=1000)
    store.delete(["a/b"])
    assert store.list("a") == []
    assert store.get("a", max_bytes=1000) == b"1"


def test_links_are_followed_but_never_in_circles(store, tmp_path):
    store.put("a/b", b"12")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c").write_bytes(b"3")
    root = tmp_path / "root"
    (root / "linked").symlink_to(outside)
    (root / "a" / "up").symlink_to(root)
    (root / "file").symlink_to(outside / "c")
    assert [e.name for e in store.list("")] == ["a/b", "file", "linked/c"]
    assert store.get("linked/c", max_bytes=1000) == b"3"


def test_a_link_to_nothing_is_said(store, tmp_path):
    store.put("a", b"1")
    (tmp_path / "root" / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotFoundError):
        store.list("")


def test_new_files_have_the_permissions_of_any_other(store, tmp_path):
    store.put("a", b"1")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "root" / "a").stat().st_mode == plain.stat().st_mode


def test_delete_takes_empty_folders_but_not_the_root(store, tmp_path):
    store.put("a/b/c", b"1")
    store.put("a/d", b"1")
    store.delete(["a/b/c"])
    assert sorted(p.name for p in (tmp_path / "root" / "a").iterdir()) == ["d"]
    store.delete(["a/d"])
    assert (tmp_path / "root").is_dir()
    assert list((tmp_path / "root").iterdir()) == []


def test_many_files_are_read_without_many_descriptors(store):
    names = [f"{i:03}" for i in range(200)]
    for name in names:
        (store._root).mkdir(exist_ok=True)
        (store._root / name).write_bytes(name.encode())
    ranges = [ByteRange(name, 1, 3) for name in names]
    n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    assert store.get_ranges(ranges) == [name[1:].encode() for name in names]
    if n_open:
        assert len(os.listdir("/proc/self/fd")) == n_open  # noqa: PTH208


@pytest.mark.parametrize("path", ["~", "~/data", "file://~/data"])
def test_a_home_sign_is_not_a_folder(path):
    with pytest.raises(OptionError, match="~"):
        open_store(path)


def test_a_relative_path_is_fixed_when_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("ds")
    monkeypatch.chdir("/")
    store.put("a", b"1")
    assert files(tmp_path) == ["ds/a"]


def test_a_huge_file_is_refused_by_its_size(store, tmp_path):
    store.put("a", b"")
    os.truncate(tmp_path / "root" / "a", 1 << 40)  # a hole
    with pytest.raises(FormatError, match=f"root: a: expected at most 64 bytes, got {1 << 40}$"):
        store.get("a", max_bytes=64)


@pytest.fixture
def pipe():
    """A pipe that holds five bytes, as a store and a name."""
    readable, writable = os.pipe()
    os.write(writable, b"01234")
    os.close(writable)
    yield LocalStore("/dev/fd"), str(readable)
    os.close(readable)


@pytest.mark.parametrize("max_bytes", [5, 6, 1 << 53])
def test_a_file_that_does_not_say_its_size_is_read_to_its_end(pipe, max_bytes):
    store, name = pipe
    assert store.get(name, max_bytes=max_bytes) == b"01234"


def test_a_file_that_does_not_say_its_size_has_a_bound_all_the_same(pipe):
    store, name = pipe
    with pytest.raises(FormatError, match="at most 4 bytes, got 5 or more"):
        store.get(name, max_bytes=4)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(store, tmp_path):
    store.put("a", b"1")
    os.mkfifo(tmp_path / "root" / "pipe")
    assert store.get("pipe", max_bytes=5) == b""
    with pytest.raises(StoreError):
        store.get_ranges([ByteRange("pipe", 0, 5)])
    with pytest.raises(NotFoundError, match="pipe"):
        store.sizes(["a", "pipe"])


def test_a_large_object_goes_through(store):
    data = os.urandom(1 << 20) * 8
    store.put("large", data)
    assert store.get_ranges([ByteRange("large", 5, len(data))]) == [data[5:]]
