"""Which adapter a URL gets, and what is said when it can have none."""

import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pcrstore import stores
from pcrstore.errors import MissingDependencyError, OptionError
from pcrstore.ranges import ByteRange
from pcrstore.store import probe_conditional_create
from pcrstore.stores import open_store
from pcrstore.stores_fsspec import FsspecStore
from pcrstore.stores_local import LocalStore
from pcrstore.stores_obstore import ObstoreStore

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
        ("az://bkt/ds", "adlfs", "pip install 'adlfs'"),
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


def test_a_chain_of_file_systems_reads(tmp_path):
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "a").write_bytes(b"0123456789")
    options = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
    store = open_store(f"simplecache::file://{tmp_path}/ds", options)
    assert store.get("a") == b"0123456789"
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
    store = FsspecStore(str(tmp_path / "ds"), filesystem=local)
    assert store.create_is_atomic is False
    assert probe_conditional_create(store) is False
