"""A forking store keeps obstore for its children, and is a store of any kind."""

import pickle
import warnings
from multiprocessing import get_context

import pytest
from children import in_child

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import OptionError
from pcrstore.storage.forking import ForkingStore
from pcrstore.storage.fsspec_store import FsspecStore
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.open import open_store


def use(store):
    return store.get_ranges([ByteRange("a", 1, 3), ByteRange("a", 3, 4)]), store.get(
        "a", max_bytes=1000
    )


EXPECTED = ([b"12", b"3"], b"01234")


@pytest.fixture
def forking(s3_server):
    pytest.importorskip("s3fs")
    pytest.importorskip("obstore")
    open_store(s3_server.url, s3_server.options, engine="fsspec").put("a", b"01234")
    return ForkingStore(s3_server.url, {**s3_server.options, **OBSTORE_OPTIONS})


OBSTORE_OPTIONS = {"client_kwargs": {"region_name": "us-east-1"}}
"""Without a region obstore would have to ask for it, and is not taken."""


def kind(store):
    return type(store._here()).__name__


def test_a_forking_store_keeps_obstore_for_its_children(s3_server, forking):
    """Run where nothing has used obstore yet: a fresh interpreter."""
    del forking  # it wrote what is read
    options = {**s3_server.options, **OBSTORE_OPTIONS}
    with get_context("spawn").Pool(1) as pool:
        before, child, after, again = pool.apply(_forking, (s3_server.url, options))
    assert before == after == ("FsspecStore", True)
    assert child == again == str(("ObstoreStore", True))


def _forking(url, options):
    store = ForkingStore(url, options)

    def work():
        warnings.simplefilter("error")
        return kind(store), use(store) == EXPECTED

    return work(), in_child(work), work(), in_child(work)


def test_a_pickle_of_a_forking_store_is_opened_anew_and_by_its_maker_with_fsspec(forking):
    copy = pickle.loads(pickle.dumps(forking))  # noqa: S301 (our own bytes)
    assert (kind(copy), use(copy)) == ("FsspecStore", EXPECTED)
    assert in_child(lambda: kind(pickle.loads(pickle.dumps(forking)))) == "ObstoreStore"  # noqa: S301
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(use, (copy,)) == EXPECTED


def test_a_forking_store_is_a_store_of_any_kind(tmp_path):
    (tmp_path / "a").write_bytes(b"01234")
    store = ForkingStore(tmp_path)
    assert use(store) == EXPECTED
    assert [e.name for e in store.list("")] == ["a"]
    assert store.n_retries == 0
    assert str(tmp_path) in repr(store)
    assert in_child(lambda: use(store)) == str(EXPECTED)


def test_a_forking_store_checks_its_engine():
    with pytest.raises(OptionError, match="engine must be"):
        ForkingStore("/nowhere", engine="boto")


def test_secrets_of_a_forking_store_are_not_shown(s3_server):
    pytest.importorskip("s3fs")
    store = ForkingStore(s3_server.url, {**s3_server.options, "secret": "hunter2"})
    assert "hunter2" not in repr(store) + store.url


def test_what_the_store_cannot_do_is_known_outside():
    assert ForkingStore("https://host/ds").can_list is False
    assert ForkingStore("/nowhere").can_list is True


def test_a_maker_without_children_reads_with_the_fast_engine(s3_server):
    store = ForkingStore(s3_server.url, {**s3_server.options, **OBSTORE_OPTIONS})
    assert isinstance(store._here(), FsspecStore)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own bytes)
    store.use_engine()
    assert isinstance(store._here(), ObstoreStore)
    assert isinstance(again._here(), FsspecStore)


class Failing:
    """A store that has failed so often."""

    def __init__(self, n_retries):
        self.n_retries = n_retries


def test_retries_are_counted_on_when_the_store_changes_and_anew_in_a_child(monkeypatch):
    opened = iter([Failing(3), Failing(40), Failing(500)])
    monkeypatch.setattr("pcrstore.storage.forking.open_store", lambda *_, **__: next(opened))
    store = ForkingStore("s3://bucket/ds")
    assert store.n_retries == 3
    for _ in range(2):
        store.use_engine()
        assert store.n_retries == 43
    assert in_child(lambda: store.n_retries) == "500"
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own bytes)
    assert copy.n_retries == 500
    assert store.n_retries == 43
