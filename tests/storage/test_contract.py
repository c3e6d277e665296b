"""Every store keeps the contract of `pcrstore.storage.protocol.Store`."""

import uuid

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from pcrstore.storage.fsspec_store import FsspecStore, open_fsspec
from pcrstore.storage.local import LocalStore
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.open import open_store
from pcrstore.storage.retry import RetryPolicy
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
        return open_fsspec(str(tmp_path / "ds"), filesystem=local)


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
