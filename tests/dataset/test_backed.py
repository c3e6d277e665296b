"""Memory is not allocated for images that a manifest claims and no index part holds."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import uses
from flows import DictStore, put_all
from msgspec.structs import replace
from rewritten import Draft, manifest_bytes
from small_datasets import PART, opened, stored

import pcrstore
from pcrstore.errors import FormatError
from pcrstore.format.names import manifest_name
from pcrstore.storage.open import open_store
from pcrstore.testing import RecordingStore


def claiming(n_parts, layout="record"):
    """A dataset whose manifest claims full parts that do not exist: name -> bytes."""
    m = Draft.of(stored(layout)).manifest
    parts = tuple(
        replace(
            m.parts[0],
            name=f"index/{i:032x}.pcri",
            uid=f"{i:032x}",
            n_images=65_536,
            n_records=8_192,
            n_bytes=2**24,
        )
        for i in range(n_parts)
    )
    m = replace(m, parts=parts, n_images=65_536 * n_parts, n_records=8_192 * n_parts)
    return {**stored(layout), manifest_name(1): manifest_bytes(m)}


CLAIMS = {
    "thousand-parts": (1_000, "zarr", "file", {}),
    # Of the record layout `info` shows what the manifest says, and reads nothing else.
    "billion-images": (15_000, "record", "file", {"info": None}),
    "no-list": (1_000, "record", "http", {"info": None, "verify": "StoreError"}),
}
"""Parts, layout, place, and uses that end otherwise than in a FormatError."""


class Ranges(BaseHTTPRequestHandler):
    """Gives ranges of the files in a folder, and no listings."""

    protocol_version = "HTTP/1.1"
    root = Path()

    def do_GET(self):
        path = self.root / self.path[1:]
        data = path.read_bytes() if path.is_file() else b""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        whole = len(data)
        if found:
            start, last = int(found[1]), int(found[2])
            data = data[start : last + 1]
        self.send_response(404 if not whole else 206 if found else 200)
        self.send_header("Content-Length", str(len(data)))
        if whole and found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{whole}")
        self.end_headers()
        self.wfile.write(data if self.command == "GET" else b"")

    do_HEAD = do_GET  # noqa: N815 - as above

    def log_message(self, *_):
        pass

    def handle(self):
        with suppress(ConnectionError):  # a client that has its error drops the other requests
            super().handle()


@pytest.fixture
def web_server():
    """Return a function that serves a folder, and gives its URL."""
    servers = []

    def serve(root):
        handler = type("Handler", (Ranges,), {"root": root})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(("n_parts", "layout", "where", "others"), CLAIMS.values(), ids=CLAIMS)
def test_claims_without_parts_take_no_memory(tmp_path, web_server, n_parts, layout, where, others):
    bad = claiming(n_parts, layout)
    for name, objects in (("good", stored(layout)), ("bad", bad)):
        put_all(open_store(str(tmp_path / name)), objects)
    root = str(tmp_path) if where == "file" else web_server(tmp_path)
    urls = [f"{root}/good", f"{root}/bad"]
    child = subprocess.run(
        [sys.executable, uses.__file__, *urls],
        cwd=Path(pcrstore.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    rows = {row["use"]: row for row in map(json.loads, child.stdout.splitlines())}
    assert rows.keys() == uses.USES.keys(), child.stderr
    most = 4 * len(bad[manifest_name(1)]) + 64 * 2**20
    assert {use: row["bytes"] for use, row in rows.items() if row["bytes"] > most} == {}
    errors = {use: row["error"] for use, row in rows.items()}
    assert errors == {**dict.fromkeys(rows, "FormatError"), **others}
    told = {use: row["message"] for use, row in rows.items() if use not in others}
    assert {use: message for use, message in told.items() if "index/0000" not in message} == {}


@pytest.fixture
def few_are_trusted(monkeypatch):
    monkeypatch.setattr("pcrstore.dataset.index_reader._TRUSTED_IMAGES", PART)


class Web(RecordingStore):
    """A plain web server: it cannot list."""

    can_list = False


@pytest.mark.usefixtures("few_are_trusted")
@pytest.mark.parametrize("store_type", [RecordingStore, Web])
def test_many_images_ask_for_their_parts_once(store_type):
    store = store_type(DictStore(stored()))
    ds = opened(store.store)
    index = ds.reader().index
    index._store = store
    index.column("label", [1, 2, 3])
    assert "list" not in {r.op for r in store.requests}
    store.clear()
    for n in (PART + 1, 20, 7):
        index.require_backed(n)
        index.sibling().require_backed(n)
    parts = ds.manifest.parts
    asked = [(r.op, r.name) for r in store.requests]
    assert asked == (
        [("size", p.name) for p in parts] if store_type is Web else [("list", "index")]
    )


def without(objects, name):
    del objects[name]


def shortened(objects, name):
    objects[name] = objects[name][:-1]


@pytest.mark.usefixtures("few_are_trusted")
@pytest.mark.parametrize("store_type", [RecordingStore, Web])
@pytest.mark.parametrize("damage", [without, shortened])
@pytest.mark.parametrize("use", ["column", "find", "positions", "parts"])
def test_a_part_that_is_not_there_is_named(store_type, damage, use):
    objects = dict(stored())
    ds = opened(DictStore(objects))
    lost = ds.manifest.parts[2].name
    damage(objects, lost)
    ds = opened(store_type(DictStore(objects)))
    act = {
        "column": lambda: ds.column("label", range(PART + 1)),
        "find": ds.find,
        "positions": lambda: ds.plan(range(PART + 1)),
        "parts": lambda: ds.index.parts([0, 1]),
    }[use]
    with pytest.raises((FormatError, pcrstore.StoreError), match=lost):
        act()
