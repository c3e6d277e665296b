"""Credentials are in no repr, no message, no traceback; and in a pickle only if they were given."""

import logging
import pickle
import traceback

import pytest
from scripted_s3 import ScriptedS3

from pcrstore.errors import PcrstoreError
from pcrstore.storage.errors import Translator
from pcrstore.storage.open import open_store
from pcrstore.storage.redact import redact_url, secrets_in
from pcrstore.storage.retry import RetryPolicy

CANARY = "cAnArY0123456789"
QUICK = RetryPolicy(deadline=0.3, first_delay=0.001, stall=0.2, unreachable=0.1)


@pytest.fixture
def server():
    server = ScriptedS3()
    yield server
    server.close()


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
@pytest.mark.parametrize("fault", ["400", "403", "500", "reset", "ok"])
def test_errors_and_reprs_hold_no_secret(server, engine, fault, caplog):
    server.then = fault
    caplog.set_level(logging.DEBUG, logger="pcrstore")
    options = {
        "key": f"{CANARY}-id",
        "secret": f"{CANARY}-secret",
        "token": f"{CANARY}-token",
        "endpoint_url": server.endpoint,
    }
    store = open_store("s3://bkt/ds", options, engine=engine, policy=QUICK)
    assert CANARY not in repr(store) + str(store) + store.url
    with pytest.raises(PcrstoreError) as caught:
        store.get("a", max_bytes=1000)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY not in caplog.text


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
def test_wrong_options_are_named_without_their_values(engine):
    options = {"secret": CANARY, "key": CANARY, "password": CANARY, "nonsense": CANARY}
    with pytest.raises(PcrstoreError) as caught:
        open_store("s3://bkt/ds", options, engine=engine, policy=QUICK).get("a", max_bytes=1000)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
def test_a_pickle_holds_what_was_given_and_nothing_found(server, engine, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{CANARY}-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-secret")
    server.objects["/bkt/ds/a"] = b"1"
    options = {"endpoint_url": server.endpoint}
    store = open_store("s3://bkt/ds", options, engine=engine)
    assert store.get("a", max_bytes=1000) == b"1"
    pickled = pickle.dumps(store)
    assert CANARY.encode() not in pickled
    assert pickle.loads(pickled).get("a", max_bytes=1000) == b"1"  # noqa: S301 (our own bytes)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a b", "s3://bucket/a b"),
        ("https://me:pw@host:8/a?sig=1#x", "https://host:8/a"),
        ("ftp://me@host/a", "ftp://host/a"),
        ("simplecache::https://me:pw@host/a?b", "simplecache::https://host/a"),
        ("zip://x::https://me:pw@host/a", "zip://x::https://host/a"),
        ("zip://x::https://[/a?secret", "zip://..."),
        ("/plain/path", "/plain/path"),
    ],
)
def test_urls_are_shown_without_credentials(url, shown):
    assert redact_url(url) == shown


def test_secrets_are_found_where_they_hide():
    options = {
        "key": "AAAA1",
        "client_kwargs": {"aws_secret_access_key": "BBBB1", "region_name": "us-east-1"},
        "token": {"private_key": "CCCC1"},
        "endpoint_url": "http://host",
    }
    found = secrets_in("https://me:DDDD1@host/a?sig=EEEE1", options)
    assert {"AAAA1", "BBBB1", "CCCC1", "DDDD1", "EEEE1"} <= set(found)
    assert "http://host" not in found
    assert "us-east-1" not in found


def test_a_cause_with_a_secret_is_replaced():
    made = Translator("s3://bkt", (CANARY,), QUICK).error("read", "a", OSError(f"key {CANARY}"))
    assert CANARY not in str(made) + str(made.__cause__)
    clean = OSError("plain")
    assert Translator("s3://bkt", (CANARY,), QUICK).error("read", "a", clean).__cause__ is clean
