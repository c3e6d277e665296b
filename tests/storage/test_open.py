"""The store that a URL gets, and what is said when it can have none."""

import pickle
import socket
import sys
import time
import traceback
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import (
    AccessDeniedError,
    MissingDependencyError,
    OptionError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage import fsspec_client
from pcrstore.storage import open as stores
from pcrstore.storage.forking import ForkingStore
from pcrstore.storage.fsspec_store import FsspecStore, open_fsspec
from pcrstore.storage.local import LocalStore
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.open import open_store
from pcrstore.storage.protocol import probe_conditional_create

KEYS = {"key": "k", "secret": "s", "client_kwargs": {"region_name": "us-east-1"}}


@pytest.mark.parametrize("url", ["file:///x", "/x", "x/y"])
def test_local_paths_get_the_local_store(url):
    assert isinstance(open_store(url), LocalStore)
    with pytest.raises(OptionError):
        open_store(url, {"key": "k"})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (KEYS, ObstoreStore),
        ({**KEYS, "requester_pays": True}, ObstoreStore),
        ({**KEYS, "use_ssl": False}, FsspecStore),
        ({**KEYS, "s3_additional_kwargs": {"x": "y"}}, FsspecStore),
        ({"key": "k", "secret": "s"}, FsspecStore),
    ],
    ids=["keys", "requester-pays", "no-ssl", "extra", "no-region"],
)
def test_obstore_is_taken_when_it_understands_every_option(options, kind):
    pytest.importorskip("obstore")
    pytest.importorskip("s3fs")
    assert isinstance(open_store("s3://bkt/ds", options), kind)


def test_an_engine_by_name_is_that_engine():
    pytest.importorskip("obstore")
    pytest.importorskip("s3fs")
    assert isinstance(open_store("s3://bkt/ds", KEYS, engine="fsspec"), FsspecStore)
    with pytest.raises(OptionError, match="use_ssl"):
        open_store("s3://bkt/ds", {**KEYS, "use_ssl": False}, engine="obstore")
    with pytest.raises(OptionError, match="engine must be"):
        open_store("s3://bkt/ds", KEYS, engine="boto")


def test_without_obstore_fsspec_is_taken(monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setattr(stores, "find_spec", lambda _name: None)
    assert isinstance(open_store("s3://bkt/ds", KEYS), FsspecStore)


@pytest.mark.parametrize(
    ("url", "driver", "hint"),
    [
        ("s3://bkt/ds", "s3fs", r"pip install 'pcrstore\[s3\]'"),
        ("gs://bkt/ds", "gcsfs", r"pip install 'pcrstore\[gcs\]'"),
        ("az://bkt/ds", "adlfs", r"pip install 'pcrstore\[azure\]'"),
    ],
)
def test_a_missing_driver_is_named(url, driver, hint, monkeypatch):
    monkeypatch.setattr(stores, "find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, driver, None)
    loaded = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(loaded, url.partition("://")[0], raising=False)
    with pytest.raises(MissingDependencyError, match=hint):
        open_store(url)


def test_an_unknown_protocol_is_said():
    with pytest.raises(MissingDependencyError, match="zz://"):
        open_store("zz://bkt/ds")
    with pytest.raises(OptionError, match="empty"):
        open_store("")


class BytesPath:
    """A path object that is of bytes."""

    def __fspath__(self):
        return b"/x"


NO_URLS = {
    "none": (None, "url must be a text or a path, got a NoneType"),
    "number": (1, "got a int"),
    "list": (["/x"], "got a list"),
    "bytes": (b"/x", "got a bytes"),
    "path-of-bytes": (BytesPath(), "got a bytes"),
    "zero-byte": ("a\0b", "zero byte"),
    "zero-byte-in-a-path": (Path("a\0b"), "zero byte"),
    "zero-byte-in-a-bucket": ("s3://a\0b", "zero byte"),
}


@pytest.mark.parametrize("opened", [open_store, ForkingStore])
@pytest.mark.parametrize(("url", "says"), NO_URLS.values(), ids=NO_URLS)
def test_what_is_no_url_is_refused(url, says, opened):
    with pytest.raises(OptionError, match=says):
        opened(url)


@pytest.mark.parametrize("opened", [open_store, ForkingStore])
def test_options_and_engines_of_other_kinds_are_refused(opened):
    for options in ("key=k", ["key"], 1, ""):
        with pytest.raises(OptionError, match="storage_options must be a mapping, got a") as caught:
            opened("/x", options)
        assert "key=" not in str(caught.value)
    for engine in (None, ["fsspec"], {}, "curl"):
        with pytest.raises(OptionError, match="engine must be auto, fsspec or obstore, got"):
            opened("/x", engine=engine)


SECRET = "pw-of-" + "mine"
FAILING = {
    "host": (socket.gaierror(-2, "Name or service not known"), TransientStoreError),
    "port": (ConnectionRefusedError(111, "Connection refused"), TransientStoreError),
    "access": (PermissionError(13, "no"), AccessDeniedError),
    "reply": (EOFError(f"530 {SECRET} is no password"), StoreError),
    "anything": (RuntimeError("odd"), StoreError),
}


@pytest.mark.parametrize(("raised", "error"), FAILING.values(), ids=FAILING)
def test_a_failure_to_connect_when_a_store_is_made_names_it(monkeypatch, raised, error):
    def failing(*_args, **_options):
        raise raised

    monkeypatch.setattr(fsspec_client, "url_to_fs", failing)
    with pytest.raises(error, match=r"cannot open ftp://nowhere\.invalid/x: ") as caught:
        open_store(f"ftp://me:{SECRET}@nowhere.invalid/x")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_chain_of_file_systems_reads(tmp_path):
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "a").write_bytes(b"0123456789")
    options = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
    store = open_store(f"simplecache::file://{tmp_path}/ds", options)
    assert store.get("a", max_bytes=1000) == b"0123456789"
    ranges = [ByteRange("a", 2, 4), ByteRange("a", 4, 6)]
    assert store.get_ranges(ranges) == [b"23", b"45"]
    assert [entry.name for entry in store.list("")] == ["a"]


def test_a_file_system_takes_no_options_beside_its_own():
    with pytest.raises(OptionError):
        open_store("x", {"key": "k"}, filesystem=fsspec.filesystem("memory"))


def test_a_given_file_system_does_not_list_from_memory(s3_server):
    s3fs = pytest.importorskip("s3fs")
    client = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint, skip_instance_cache=True)
    store = open_store(f"{s3_server.bucket}/ds", filesystem=client)
    store.put("a", b"1")
    assert [entry.name for entry in store.list("")] == ["a"]
    open_store(s3_server.url, s3_server.options, engine="fsspec").put("b", b"2")
    assert [entry.name for entry in store.list("")] == ["a", "b"]


def test_creators_in_memory_wait_for_each_other(monkeypatch):
    store = open_store(f"memory://{uuid.uuid4().hex}")
    real = MemoryFileSystem.exists

    def slow(self, path, **kwargs):
        found = real(self, path, **kwargs)
        time.sleep(0.01)
        return found

    monkeypatch.setattr(MemoryFileSystem, "exists", slow)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda i: store.create("a", b"%d" % i), range(4))) == 1


def test_a_store_that_lets_the_second_writer_win_is_found_out(tmp_path):
    class Ignores(LocalStore):
        def create(self, name, data):
            self.put(name, data)
            return True

    assert probe_conditional_create(LocalStore(str(tmp_path))) is True
    assert probe_conditional_create(Ignores(str(tmp_path))) is False
    assert LocalStore(str(tmp_path)).list("") == []


def test_a_file_system_of_unknown_kind_says_that_its_create_is_not_atomic(tmp_path):
    local = fsspec.filesystem("file", auto_mkdir=True, skip_instance_cache=True)
    store = open_fsspec(str(tmp_path / "ds"), filesystem=local)
    assert store.create_is_atomic is False
    assert probe_conditional_create(store) is False


def zipped(tmp_path):
    """The URL of an archive in the memory of this process."""
    name = uuid.uuid4().hex
    with fsspec.open(f"memory://{name}.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"01234")
    del tmp_path
    return f"zip::memory://{name}.zip"


PLACES = {
    "folder": (str, True, True),
    "memory": (lambda _: f"memory://{uuid.uuid4().hex}", False, False),
    "archive-in-memory": (zipped, False, False),
    "cached-folder": (lambda p: f"simplecache::file://{p}", False, True),
    "bucket": (lambda _: "s3://bkt/ds", False, True),
    "web": (lambda _: "https://host/ds", False, True),
}


@pytest.mark.parametrize(("url", "is_local", "shared"), PLACES.values(), ids=PLACES)
def test_a_store_says_where_its_objects_are(tmp_path, url, is_local, shared):
    store = open_store(url(tmp_path))
    assert (store.is_local, store.shared_by_processes) == (is_local, shared)
    assert store.can_list == (not store.url.startswith("https:"))
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own bytes)
    assert (copy.url, copy.is_local, copy.shared_by_processes) == (store.url, is_local, shared)


def test_a_given_file_system_in_memory_is_of_this_process():
    store = open_store("ds", filesystem=fsspec.filesystem("memory"))
    assert store.shared_by_processes is False
