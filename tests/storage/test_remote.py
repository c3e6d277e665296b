"""A remote store's use of a client's answers: tries, entries, errors."""

import asyncio
import threading
import uuid

import pytest

from pcrstore.core import ByteRange
from pcrstore.errors import (
    AccessDeniedError,
    FormatError,
    NotFoundError,
    OptionError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage.errors import Translator
from pcrstore.storage.open import open_store
from pcrstore.storage.protocol import Entry
from pcrstore.storage.remote import ConflictError, RemoteStore, TooLargeError
from pcrstore.storage.retry import RetryPolicy

QUICK = RetryPolicy(first_delay=0.001, deadline=5.0)


class DictClient:
    """A client of objects in a dictionary; `script` has what happens to the next requests.

    None: nothing odd. An exception is raised instead; "lost" raises once it is done.
    """

    create_is_atomic = True
    can_list = True

    def __init__(self, *script, resends=False, **objects):
        self.resends = resends
        self.objects = objects
        self.script = list(script)
        self.log = []

    def run(self, work):
        return asyncio.run(work)

    async def _do(self, verb, name, work):
        self.log.append((verb, name))
        fault = self.script.pop(0) if self.script else None
        if isinstance(fault, Exception):
            raise fault
        done = work()
        if fault == "lost":
            raise ConnectionError("the reply is lost")
        return done

    def _found(self, name):
        if name not in self.objects:
            raise FileNotFoundError(name)
        return self.objects[name]

    async def get(self, name, max_bytes):
        del max_bytes
        return await self._do("get", name, lambda: self._found(name))

    async def get_range(self, wanted):
        return await self._do(
            "range", wanted.name, lambda: self._found(wanted.name)[wanted.start : wanted.stop]
        )

    async def list(self, folder):
        return await self._do(
            "list", folder, lambda: [entry_of(k, v) for k, v in self.objects.items()]
        )

    async def size(self, name):
        return await self._do("size", name, lambda: len(self._found(name)))

    async def is_object(self, entry):
        return await self._do("look", entry.name, lambda: bool(self._found(entry.name) is not None))

    async def put(self, name, data):
        await self._do("put", name, lambda: self.objects.update({name: data}))

    async def create(self, name, data):
        def create():
            is_new = name not in self.objects
            self.objects.setdefault(name, data)
            return is_new

        return await self._do("create", name, create)

    async def delete(self, name):
        await self._do("delete", name, lambda: self._found(name) and self.objects.pop(name))


def entry_of(name, data):
    return Entry(name=name, n_bytes=len(data))


def store_over(client):
    return RemoteStore(lambda: client, Translator("x://bucket/ds", (), QUICK), QUICK)


def test_each_range_is_one_request_and_an_empty_one_is_none():
    client = DictClient(a=b"0123456789")
    ranges = [ByteRange("a", 4, 6), ByteRange("a", 3, 3), ByteRange("a", 0, 1)]
    assert store_over(client).get_ranges(ranges) == [b"45", b"", b"0"]
    assert client.log == [("range", "a")] * 2


def test_a_failure_is_tried_again_and_counted():
    client = DictClient(ConnectionError("one"), ConnectionError("two"), a=b"x")
    store = store_over(client)
    assert store.get("a", max_bytes=1000) == b"x"
    assert (len(client.log), store.n_retries) == (3, 2)


def test_names_that_leave_the_root_are_no_requests():
    client = DictClient()
    store = store_over(client)
    for call in (
        lambda: store.get("../a", max_bytes=1000),
        lambda: store.get_ranges([ByteRange("../a", 0, 0)]),
        lambda: store.put("../a", b""),
        lambda: store.create("../a", b""),
        lambda: store.delete(["b", "../a"]),
    ):
        with pytest.raises(OptionError, match="relative"):
            call()
    assert client.log == []


CREATES = {
    "made": (DictClient(), True, 1),
    "there": (DictClient(b=b"other"), False, 1),
    "lost-and-ours": (DictClient("lost"), True, 3),
    "lost-and-theirs": (DictClient(ConnectionError("lost"), b=b"theirs"), False, 3),
    "lost-and-theirs-of-one-size": (DictClient(ConnectionError("lost"), b=b"them"), False, 3),
    "conflict": (DictClient(ConflictError()), True, 2),
    "resent-by-the-library": (DictClient(resends=True, b=b"mine"), True, 2),
    "there-and-may-be-ours": (DictClient(resends=True, b=b"other"), False, 2),
}


@pytest.mark.parametrize(("client", "created", "n_requests"), CREATES.values(), ids=CREATES)
def test_a_create_says_whose_the_object_is(client, created, n_requests):
    assert store_over(client).create("b", b"mine") is created
    assert len(client.log) == n_requests


def test_a_create_that_cannot_be_settled_is_unknown():
    client = DictClient("lost", None, PermissionError("read"))
    with pytest.raises(TransientStoreError, match="cannot tell who created x://bucket/ds/b"):
        store_over(client).create("b", b"mine")


@pytest.mark.parametrize(
    ("stop", "n_requests", "says"),
    [(11, QUICK.max_short, "shorter"), (5, 1, "ignores Range")],
    ids=["too-short", "too-long"],
)
def test_a_body_of_another_length_never_comes_back(stop, n_requests, says):
    client = DictClient(a=b"0123456789")
    if stop == 5:
        client.get_range = lambda wanted: client.get(wanted.name, 1000)
    with pytest.raises(StoreError, match=says):
        store_over(client).get_ranges([ByteRange("a", 0, stop)])
    assert len(client.log) == n_requests


def test_a_listing_leaves_out_markers_and_probes():
    client = DictClient(
        None, None, FileNotFoundError("gone"), **{"a": b"", "b": b"1", "c": b"", "c/1": b"1"}
    )
    client.objects[".pcrstore-probe"] = b"first"
    client.objects["z"] = b""
    assert [e.name for e in store_over(client).list("")] == ["a", "b", "c/1"]
    assert client.log == [("list", ""), ("look", "a"), ("look", "z")]


def test_an_empty_object_that_may_not_be_looked_at_is_listed():
    client = DictClient(None, PermissionError("HEAD is denied"), a=b"", b=b"1")
    assert [e.name for e in store_over(client).list("")] == ["a", "b"]
    assert client.log == [("list", ""), ("look", "a")]


def test_more_than_the_reader_takes_is_refused_at_once_and_without_a_retry():
    client = DictClient(a=b"0123456789")
    store = store_over(client)
    with pytest.raises(FormatError, match="x://bucket/ds: a: expected at most 9 bytes, got 10 or"):
        store.get("a", max_bytes=9)
    client.script = [TooLargeError(77)]
    with pytest.raises(FormatError, match=r"x://bucket/ds: a: expected at most 9 bytes, got 77$"):
        store.get("a", max_bytes=9)
    assert (len(client.log), store.n_retries) == (2, 0)


def test_sizes_are_asked_for_one_by_one_and_tried_again():
    client = DictClient(ConnectionError("one"), a=b"0123", b=b"")
    assert store_over(client).sizes(["b", "a"]) == [0, 4]
    assert min(client.log) == ("size", "a")
    assert len(client.log) == 3


class ChecksAndPuts(DictClient):
    """A client whose create is a check and a put, and that meets others between the two."""

    create_is_atomic = False

    def __init__(self, place, between=lambda: None):
        super().__init__()
        self.place = place
        self.between = between

    async def create(self, name, data):
        if name in [entry.name for entry in self.place.list("")]:
            return False
        self.between()
        self.place.put(name, data)
        return True


@pytest.mark.parametrize("kind", ["blocking", "remote"])
def test_stores_of_one_place_check_and_put_one_at_a_time(kind):
    """Of whatever kinds they are: the second may look when the first has put."""
    place = open_store(f"memory://{uuid.uuid4().hex}")
    rival = {"blocking": place, "remote": store_over(ChecksAndPuts(place))}[kind]
    won = []
    thread = threading.Thread(target=lambda: won.append(rival.create("a", b"second")))

    def between():
        thread.start()
        thread.join(0.2)  # ends at once where nothing holds the rival up
        assert won == []

    assert store_over(ChecksAndPuts(place, between)).create("a", b"first") is True
    thread.join()
    assert won == [False]
    assert place.get("a", max_bytes=5) == b"first"


def test_a_web_server_is_neither_listed_nor_written():
    client = DictClient(a=b"x")
    client.can_list = False
    store = store_over(client)
    with pytest.raises(StoreError, match="cannot be listed"):
        store.list("")
    for call in (
        lambda: store.put("a", b""),
        lambda: store.create("a", b""),
        lambda: store.delete(["a"]),
    ):
        with pytest.raises(AccessDeniedError, match="read only"):
            call()
    assert client.log == []
    assert store.get("a", max_bytes=1000) == b"x"


def test_deleting_forgives_a_missing_object_and_not_a_missing_bucket():
    store_over(DictClient()).delete(["never-was"])  # of a bucket that is called "bucket"
    with pytest.raises(NotFoundError, match="no such bucket"):
        store_over(DictClient(FileNotFoundError("NoSuchBucket"))).delete(["a"])
