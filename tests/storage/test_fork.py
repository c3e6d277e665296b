"""A store that was used before a fork works after it, and never hangs."""

import pickle
import warnings
from multiprocessing import get_context

import pytest
from children import in_child

from pcrstore.core.ranges import ByteRange
from pcrstore.storage.fsspec_store import FsspecStore
from pcrstore.storage.obstore_store import ForkedObstoreWarning, ObstoreStore
from pcrstore.storage.open import open_store


def use(store):
    return store.get_ranges([ByteRange("a", 1, 3), ByteRange("a", 3, 4)]), store.get(
        "a", max_bytes=1000
    )


@pytest.fixture(params=["fsspec", "obstore"])
def store(request, s3_server):
    pytest.importorskip("s3fs")
    pytest.importorskip("obstore")
    store = open_store(s3_server.url, s3_server.options, engine=request.param)
    store.put("a", b"01234")
    return store


EXPECTED = ([b"12", b"3"], b"01234")


def work_with_warnings(store, n):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [use(store) for _ in range(n)]
        store.create("from-child", b"x")
        results.append(use(pickle.loads(pickle.dumps(store))))  # noqa: S301 (our own bytes)
    named = [w for w in caught if issubclass(w.category, ForkedObstoreWarning)]
    return all(r == EXPECTED for r in results), len(named)


def test_a_forked_child_reads_on(store):
    n_warnings = int(isinstance(store, ObstoreStore))
    assert in_child(lambda: work_with_warnings(store, 2)) == str((True, n_warnings))
    assert use(store) == EXPECTED
    assert store.get("from-child", max_bytes=1000) == b"x"


def test_the_warning_says_what_to_do(store):
    if not isinstance(store, ObstoreStore):
        pytest.skip("only obstore is lost after a fork")

    def message():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store.list("")
        return caught[0].message

    said = in_child(message)
    assert "spawn" in said
    assert "fsspec" in said


@pytest.mark.usefixtures("store")
def test_a_store_opened_in_a_forked_child_reads(s3_server):
    def opened():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return use(open_store(s3_server.url, s3_server.options)) == EXPECTED

    assert in_child(opened) == "True"


def test_a_grandchild_reads(store):
    def nested():
        return in_child(lambda: work_with_warnings(store, 1)[0])

    assert in_child(nested) == "True"


def test_a_given_file_system_is_made_anew_in_a_child(s3_server):
    s3fs = pytest.importorskip("s3fs")
    client = s3fs.S3FileSystem(endpoint_url=s3_server.endpoint, skip_instance_cache=True)
    store = open_store(f"{s3_server.bucket}/ds", filesystem=client)
    assert isinstance(store, FsspecStore)
    store.put("a", b"01234")
    assert in_child(lambda: use(store)) == str(EXPECTED)


def test_an_unused_obstore_survives_a_fork(s3_server):
    """Run where nothing has used obstore yet: a fresh interpreter."""
    pytest.importorskip("obstore")
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_fork_before_use, (s3_server.url, s3_server.options)) == "True"


def _fork_before_use(url, options):
    store = open_store(url, options, engine="obstore")

    def first_use():
        warnings.simplefilter("error")
        store.put("a", b"01234")
        return use(store) == EXPECTED

    return in_child(first_use)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods_take_a_pickled_store(store, method):
    with get_context(method).Pool(1) as pool:
        assert pool.apply(use, (store,)) == EXPECTED
