"""What a store does when the server throttles, breaks off, stalls or lies."""

import gzip
import socket
import time

import pytest
from scripted_s3 import ScriptedS3, Zeros

from pcrstore.core.ranges import ByteRange
from pcrstore.errors import (
    AccessDeniedError,
    FormatError,
    NotFoundError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.open import open_store
from pcrstore.storage.retry import RetryPolicy

QUICK = RetryPolicy(deadline=5.0, first_delay=0.001, max_delay=0.01)
PATIENT = RetryPolicy(deadline=30, unreachable=0.5, first_delay=0.01)
"""Tells who is not there even where the machine is busy."""
TINY = RetryPolicy(deadline=0.7, stall=0.3, first_delay=0.001, max_delay=0.01, unreachable=0.3)
BODY = bytes(range(250))
HUGE = 256 << 20
IN_BUFFERS = 64 << 20
"""More than lies in the buffers of a connection that nobody reads from."""
SOME = ByteRange("a", 10, 20)


@pytest.fixture
def server():
    server = ScriptedS3()
    server.objects["/bkt/ds/a"] = BODY
    yield server
    server.close()


@pytest.fixture(params=["fsspec", "obstore"])
def engine(request):
    pytest.importorskip("s3fs" if request.param == "fsspec" else "obstore")
    return request.param


def opened(server, engine, policy=QUICK):
    options = {"endpoint_url": getattr(server, "endpoint", server)}
    return open_store("s3://bkt/ds", options, engine=engine, policy=policy)


@pytest.mark.parametrize("fault", ["408", "429", "500", "502", "503", "504", "reset", "cut"])
def test_a_passing_failure_is_tried_again(server, engine, fault):
    store = opened(server, engine)
    server.script = [fault, fault]
    assert store.get_ranges([SOME]) == [BODY[10:20]]
    assert server.gets() == ["bytes=10-19"] * 3
    server.script = [fault]
    assert store.get("a", max_bytes=1000) == BODY


@pytest.mark.parametrize("fault", ["400", "401", "403", "404"])
def test_a_lasting_failure_is_asked_once(server, engine, fault):
    server.then = fault
    expected = {"401": AccessDeniedError, "403": AccessDeniedError, "404": NotFoundError}
    with pytest.raises(expected.get(fault, StoreError), match="s3://bkt/ds/a") as caught:
        opened(server, engine).get_ranges([SOME])
    assert not isinstance(caught.value, TransientStoreError)
    assert caught.value.__cause__ is not None
    assert len(server.log) == 1


def test_each_range_is_tried_on_its_own(server, engine):
    server.script = ["ok", "503", "ok", "ok"]
    ranges = [ByteRange("a", i, i + 5) for i in range(0, 50, 5)]
    assert opened(server, engine).get_ranges(ranges) == [BODY[r.start : r.stop] for r in ranges]
    assert len(server.log) == len(ranges) + 1


def test_every_range_is_one_request(server, engine):
    """Touching, overlapping and repeated ranges are neither merged nor split."""
    ranges = [ByteRange("a", 0, 10), ByteRange("a", 10, 20), ByteRange("a", 5, 15)]
    ranges += [ByteRange("a", 0, 10), ByteRange("a", 7, 7), ByteRange("a", 0, 250)]
    opened(server, engine).get_ranges(ranges)
    asked = ["bytes=0-9", "bytes=10-19", "bytes=5-14", "bytes=0-9", "bytes=0-249"]
    assert sorted(server.gets()) == sorted(asked)
    assert len(server.log) == 5


def test_a_whole_object_is_one_request(server, engine):
    assert opened(server, engine).get("a", max_bytes=1000) == BODY
    assert [method for method, _, _ in server.log] == ["GET"]


@pytest.mark.parametrize("n_bytes", [0, 1, 250])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_bound_costs_no_request(server, engine, n_bytes, beyond):
    server.objects["/bkt/ds/a"] = BODY[:n_bytes]
    assert opened(server, engine).get("a", max_bytes=n_bytes + beyond) == BODY[:n_bytes]
    ranged = f"bytes=0-{n_bytes + beyond}" if engine == "fsspec" else None
    assert server.log == [("GET", "/bkt/ds/a", ranged)]


def test_a_huge_object_is_refused_before_its_body_is_held(server, engine):
    server.objects["/bkt/ds/a"] = Zeros(HUGE)
    got = {"fsspec": "1001 or more", "obstore": HUGE}[engine]
    expected = f"s3://bkt/ds: a: expected at most 1000 bytes, got {got}$"
    with pytest.raises(FormatError, match=expected):
        opened(server, engine).get("a", max_bytes=1000)
    assert len(server.log) == 1
    assert server.n_sent < IN_BUFFERS


def test_a_size_is_one_request_and_a_failure_of_it_is_tried_again(server, engine):
    server.objects["/bkt/ds/b"] = b""
    store = opened(server, engine)
    server.script = ["503"]
    assert store.sizes(["a", "b"]) == [250, 0]
    assert set(server.log) == {("HEAD", "/bkt/ds/a", None), ("HEAD", "/bkt/ds/b", None)}
    assert len(server.log) == 3


@pytest.mark.parametrize("fault", ["whole", "shifted", "short"])
def test_a_wrong_reply_is_never_data(server, engine, fault):
    server.then = fault
    if (engine, fault) == ("fsspec", "shifted"):
        pytest.skip("s3fs does not show Content-Range; the checksum above it notices")
    with pytest.raises(StoreError) as caught:
        opened(server, engine).get_ranges([SOME])
    if fault == "whole":
        assert "ignores Range" in str(caught.value)
        assert len(server.log) == 1
    else:
        assert isinstance(caught.value, TransientStoreError)
        assert len(server.log) == QUICK.max_short


@pytest.mark.parametrize("call", ["get", "get_ranges", "put", "create", "list"])
def test_a_server_that_never_answers_is_given_up(server, engine, call):
    server.then = "stall"
    store = opened(server, engine, TINY)
    calls = {
        "get": lambda: store.get("a", max_bytes=1000),
        "get_ranges": lambda: store.get_ranges([SOME] * 3),
        "put": lambda: store.put("b", b"1"),
        "create": lambda: store.create("b", b"1"),
        "list": lambda: store.list(""),
    }
    start = time.monotonic()
    with pytest.raises(TransientStoreError, match="gave up after"):
        calls[call]()
    assert time.monotonic() - start < 3


def test_nobody_there_is_said_so(engine):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(TransientStoreError, match="cannot be reached"):
            opened(endpoint, engine, PATIENT).get("a", max_bytes=1000)


def test_retry_after_is_honoured(server):
    pytest.importorskip("s3fs")
    server.script = ["503"]
    server.headers = {"Retry-After": "1"}
    start = time.monotonic()
    opened(server, "fsspec").get("a", max_bytes=1000)
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("n_lost", [1, 2])
def test_a_create_whose_reply_was_lost_is_ours(server, engine, n_lost):
    server.script = ["lost"] * n_lost
    assert opened(server, engine).create("b", b"writer 1") is True
    assert server.objects["/bkt/ds/b"] == b"writer 1"


AZURE = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=bWluZQ==;BlobEndpoint="
"""Up to the endpoint."""


@pytest.mark.parametrize("kind", ["s3", "az"])
@pytest.mark.parametrize(
    ("code", "is_there"),
    [
        ("BlobAlreadyExists", True),
        ("ConditionalRequestConflict", False),
        ("OperationAborted", False),
        ("ContainerBeingDeleted", False),
    ],
)
def test_a_409_says_in_its_code_whether_the_object_is_there(server, kind, code, is_there):
    pytest.importorskip("obstore")
    options = {"endpoint_url": server.endpoint}
    if kind == "az":
        options = {"connection_string": f"{AZURE}{server.endpoint}/me"}
    store = open_store(f"{kind}://bkt/ds", options, engine="obstore", policy=QUICK)
    server.script = [f"409 {code}"]
    assert store.create("b", b"mine") is not is_there
    assert len(server.log) == (1 if is_there else 2)


def test_a_create_that_lost_its_reply_and_the_race_is_not_ours(server, engine):
    server.objects["/bkt/ds/b"] = b"writer 2"
    server.script = ["lost"]
    assert opened(server, engine).create("b", b"writer 1") is False


def test_a_create_nobody_can_tell_of_is_unknown(server, engine):
    # aiohttp tries a lost PUT a second time by itself, so that s3fs sees one loss of two.
    server.script = ["lost", "ok", "403"]
    with pytest.raises(TransientStoreError, match="cannot tell who created"):
        opened(server, engine).create("b", b"writer 1")


def test_a_conflict_tells_nothing_yet(server, engine):
    """409 means that another create is under way, and may yet fail."""
    server.script = ["409"]
    assert opened(server, engine).create("b", b"writer 1") is True


def test_another_region_is_said_so(server):
    pytest.importorskip("obstore")  # s3fs follows the redirect by itself
    server.then = "301"
    with pytest.raises(StoreError, match="region_name"):
        opened(server, "obstore").get_ranges([SOME])


@pytest.mark.parametrize("n_bytes", [0, 40 << 20])
def test_large_and_empty_objects_go_through(s3_server, engine, n_bytes):
    data = bytes(range(256)) * (n_bytes // 256)
    store = open_store(s3_server.url, s3_server.options, engine=engine)
    store.put("large", data)
    assert [entry.n_bytes for entry in store.list("")] == [n_bytes]
    if n_bytes:
        ends = [ByteRange("large", 0, 5), ByteRange("large", n_bytes - 5, n_bytes)]
        assert store.get_ranges(ends) == [data[:5], data[-5:]]
    assert store.create("large", b"other") is False


def test_no_such_bucket_is_said_so(s3_server, engine):
    store = open_store("s3://no-such-bucket/ds", s3_server.options, engine=engine, policy=QUICK)
    for call in (
        lambda: store.list(""),
        lambda: store.get("a", max_bytes=1000),
        lambda: store.put("a", b""),
        lambda: store.create("a", b""),
    ):
        with pytest.raises(NotFoundError, match="no such bucket"):
            call()


def test_no_credentials_is_one_clear_line(s3_server, engine, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDeniedError, match="no usable credentials") as caught:
        open_store(s3_server.url, s3_server.options, engine=engine, policy=QUICK).get(
            "a", max_bytes=1000
        )
    assert "\n" not in str(caught.value)


def test_web_servers_are_read_by_range_and_cannot_be_listed(server):
    pytest.importorskip("aiohttp")
    server.objects["/ds/a b%"] = BODY
    server.objects["/ds/a%20b%25"] = BODY
    store = open_store(f"{server.endpoint}/ds", policy=QUICK)
    assert store.get_ranges([ByteRange("a b%", 10, 20), ByteRange("a b%", 20, 30)]) == [
        BODY[10:20],
        BODY[20:30],
    ]
    assert store.get("a b%", max_bytes=1000) == BODY
    assert sorted(server.gets(), key=str) == [None, "bytes=10-19", "bytes=20-29"]
    with pytest.raises(StoreError, match="cannot be listed"):
        store.list("")
    for call in (store.put, store.create):
        with pytest.raises(AccessDeniedError, match="read only"):
            call("a", b"")
    server.then = "whole"
    with pytest.raises(StoreError, match="ignores Range"):
        store.get_ranges([ByteRange("a b%", 10, 20)])


@pytest.fixture
def web(server):
    pytest.importorskip("aiohttp")
    server.objects |= {"/ds/a": BODY, "/ds/empty": b"", "/ds/huge": Zeros(HUGE)}
    return open_store(f"{server.endpoint}/ds", policy=QUICK)


@pytest.mark.parametrize(
    ("fault", "got"), [("ok", HUGE), ("unsized", "1001 or more")], ids=["sized", "unsized"]
)
def test_a_huge_object_of_a_web_server_is_not_read_to_its_end(server, web, fault, got):
    server.script = [fault]
    with pytest.raises(FormatError, match=f": huge: expected at most 1000 bytes, got {got}$"):
        web.get("huge", max_bytes=1000)
    assert server.gets() == [None]
    assert server.n_sent < IN_BUFFERS
    assert web.get("a", max_bytes=250) == BODY


@pytest.mark.parametrize("fault", ["ok", "unsized"])
@pytest.mark.parametrize("name", ["a", "empty"])
def test_an_object_of_a_web_server_may_be_as_large_as_the_bound(server, web, fault, name):
    data = server.objects[f"/ds/{name}"]
    server.then = fault
    assert web.get(name, max_bytes=len(data)) == data
    with pytest.raises(FormatError, match="expected at most 249 bytes"):
        web.get("a", max_bytes=249)


def test_a_packed_reply_of_a_web_server_is_as_large_as_what_is_in_it(server, web):
    server.objects["/ds/packed"] = gzip.compress(bytes(1 << 20))
    server.headers = {"Content-Encoding": "gzip"}
    assert web.get("packed", max_bytes=1 << 20) == bytes(1 << 20)
    with pytest.raises(FormatError, match="got 100001 or more"):
        web.get("packed", max_bytes=100_000)


def test_a_web_server_is_asked_for_one_byte_to_tell_a_size(server, web):
    assert web.sizes(["huge", "a", "empty"]) == [HUGE, 250, 0]
    assert server.gets() == ["bytes=0-0"] * 3
    assert server.n_sent < 1000
    server.then = "whole"
    assert web.sizes(["huge", "a", "empty"]) == [HUGE, 250, 0]
    assert server.n_sent < IN_BUFFERS
    server.then = "unsized"
    with pytest.raises(StoreError, match="a: the web server does not say its size"):
        web.sizes(["a"])
    server.then = "ok"
    with pytest.raises(NotFoundError, match="none"):
        web.sizes(["a", "none"])


def test_a_signed_web_address_keeps_its_query(server):
    pytest.importorskip("aiohttp")
    server.objects["/ds/a"] = BODY
    store = open_store(f"{server.endpoint}/ds?sig=abcdefgh", policy=QUICK)
    assert store.get("a", max_bytes=1000) == BODY
    assert "abcdefgh" not in repr(store) + store.url
    with pytest.raises(NotFoundError) as caught:
        store.get("missing", max_bytes=1000)
    assert "abcdefgh" not in str(caught.value) + str(caught.value.__cause__)


def test_the_engines_are_told_apart(server):
    pytest.importorskip("obstore")
    assert isinstance(opened(server, "auto"), ObstoreStore)
