"""Every adapter keeps the contract of `pcrstore.store.Store`."""

import uuid

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from pcrstore.retry import RetryPolicy
from pcrstore.stores import open_store
from pcrstore.stores_fsspec import FsspecStore
from pcrstore.stores_local import LocalStore
from pcrstore.stores_obstore import ObstoreStore
from pcrstore.testing.contract import StoreContract

# A range past the end is tried again a few times; not for long here.
QUICK = RetryPolicy(first_delay=0.001)


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return open_store(f"file://{tmp_path}/made/later")


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        return open_store(f"memory://{uuid.uuid4().hex}/ds")


class TestFolderFileSystem(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        local = DirFileSystem(path=str(tmp_path), fs=fsspec.filesystem("file"))
        store = open_store("ds", filesystem=local)
        assert isinstance(store, LocalStore)
        return store


class TestGivenFileSystem(StoreContract):
    """An instance that open_store cannot see through, so the general path is what runs."""

    @pytest.fixture
    def store(self, tmp_path):
        local = fsspec.filesystem("file", auto_mkdir=True, skip_instance_cache=True)
        return FsspecStore(str(tmp_path / "ds"), filesystem=local)


class TestS3ThroughFsspec(StoreContract):
    @pytest.fixture
    def store(self, s3_server):
        pytest.importorskip("s3fs")
        store = open_store(s3_server.url, s3_server.options, engine="fsspec", policy=QUICK)
        assert isinstance(store, FsspecStore)
        return store


class TestS3ThroughObstore(StoreContract):
    @pytest.fixture
    def store(self, s3_server):
        pytest.importorskip("obstore")
        store = open_store(s3_server.url, s3_server.options, policy=QUICK)
        assert isinstance(store, ObstoreStore)
        return store


class TestBucketRoot(StoreContract):
    """A store without a folder of its own."""

    @pytest.fixture
    def store(self, s3_server):
        pytest.importorskip("obstore")
        return open_store(f"s3://{s3_server.bucket}", s3_server.options, policy=QUICK)
