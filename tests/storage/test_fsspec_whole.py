"""Whole objects of any fsspec file system: what is there, and never more than was asked for."""

import io
import socket
import tarfile
import threading
import uuid
import zipfile

import fsspec
import pytest
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pcrstore.errors import FormatError, NotFoundError, StoreError
from pcrstore.storage import fsspec_whole
from pcrstore.storage.fsspec_store import BlockingStore
from pcrstore.storage.open import open_store

BODY = bytes(range(250))


class Asked(MemoryFileSystem):
    """Writes down which bytes it was asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ranges = []

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.ranges.append((start, end))
        return super().cat_file(path, start, end, **kwargs)


@pytest.mark.parametrize(
    ("n_bytes", "ranges"),
    [
        (0, [(0, 100)]),
        (99, [(0, 100)]),
        (100, [(0, 100), (100, 200)]),
        (199, [(0, 100), (100, 200)]),
        (200, [(0, 100), (100, 200), (200, 231)]),
        (230, [(0, 100), (100, 200), (200, 231)]),
    ],
)
def test_a_file_is_asked_for_one_byte_more_than_the_bound_in_steps(monkeypatch, n_bytes, ranges):
    monkeypatch.setattr(fsspec_whole, "_STEP", 100)
    fs = Asked(skip_instance_cache=True)
    store = open_store(uuid.uuid4().hex, filesystem=fs)
    store.put("a", BODY[:n_bytes])
    assert store.get("a", max_bytes=230) == BODY[:n_bytes]
    assert fs.ranges == ranges


def test_a_file_that_is_larger_is_read_no_further():
    fs = Asked(skip_instance_cache=True)
    store = open_store(uuid.uuid4().hex, filesystem=fs)
    store.put("a", BODY)
    with pytest.raises(FormatError, match="a: expected at most 9 bytes, got 10 or more"):
        store.get("a", max_bytes=9)
    assert fs.ranges == [(0, 10)]


def zipped(files, folder):
    with zipfile.ZipFile(folder / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return f"zip://::file://{folder}/in.zip"


def tarred(files, folder):
    with tarfile.open(folder / "in.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return f"tar://::file://{folder}/in.tar.gz"


def plain(files, folder):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return f"simplecache::file://{folder}"


@pytest.mark.parametrize("make", [zipped, tarred, plain])
def test_archives_and_caches_are_read_up_to_the_bound(make, tmp_path):
    store = open_store(make({"a": BODY, "empty": b""}, tmp_path))
    assert isinstance(store, BlockingStore)
    assert [store.get(name, max_bytes=250) for name in ("a", "empty")] == [BODY, b""]
    assert store.get("a", max_bytes=2**53) == BODY
    assert store.sizes(["empty", "a"]) == [0, 250]
    with pytest.raises(FormatError, match="a: expected at most 249 bytes"):
        store.get("a", max_bytes=249)
    with pytest.raises(NotFoundError, match="none"):
        store.sizes(["none"])


def test_a_part_of_a_file_ends_where_it_ends():
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe_file(f"/{name}", BODY)
    parts = {
        "in/part": [f"memory://{name}", 10, 5],
        "in/whole": [f"memory://{name}"],
        "in/inline": "base64:aGVsbG8=",
    }
    fs = fsspec.filesystem("reference", fo={"version": 1, "refs": parts}, skip_instance_cache=True)
    store = open_store("in", filesystem=fs)
    for part, data in {"part": BODY[10:15], "whole": BODY, "inline": b"hello"}.items():
        assert store.get(part, max_bytes=len(data)) == data
        assert store.get(part, max_bytes=len(data) + 9) == data
        with pytest.raises(FormatError, match=f"{part}: expected at most 4 bytes"):
            store.get(part, max_bytes=4)
    assert store.sizes(["part"]) == [5]


class FtpServer:
    """A loopback server that speaks as much FTP as it takes to be read from."""

    def __init__(self, files):
        self.files = files
        self.log = []
        self.n_sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ftp://127.0.0.1:{self._listener.getsockname()[1]}/in"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        fixed = {"USER": "230 in", "TYPE": "200 ok", "QUIT": "221 bye"}
        with connection, connection.makefile("rwb", buffering=0) as control:
            control.write(b"220 ready\r\n")
            for line in control:
                verb, _, name = line.decode().strip().partition(" ")
                self.log.append((verb, name))
                if verb in {"EPSV", "PASV"}:
                    data = socket.create_server(("127.0.0.1", 0))
                    high, low = divmod(data.getsockname()[1], 256)
                    reply = f"227 ok (127,0,0,1,{high},{low})"
                elif verb == "RETR" and name in self.files:
                    control.write(b"150 here it comes\r\n")
                    reply = self._send(data, self.files[name])
                elif verb == "RETR":
                    data.close()
                    reply = "550 no such file"
                else:
                    reply = fixed.get(verb, "502 unknown")
                control.write(f"{reply}\r\n".encode())

    def _send(self, listener, content):
        with listener, listener.accept()[0] as data:
            try:
                for piece in content:
                    data.sendall(piece)
                    self.n_sent += len(piece)
            except OSError:
                return "426 broken off"
        return "226 done"


@pytest.fixture
def ftp():
    huge = [bytes(1 << 20)] * 256
    server = FtpServer({"/in/a": [BODY], "/in/empty": [], "/in/huge": huge})
    yield server
    server.close()


def test_a_file_of_an_ftp_server_is_one_request_and_broken_off_at_the_bound(ftp):
    store = open_store(ftp.url)
    assert [store.get(name, max_bytes=250) for name in ("a", "empty")] == [BODY, b""]
    with pytest.raises(FormatError, match="huge: expected at most 9 bytes, got 10 or more"):
        store.get("huge", max_bytes=9)
    with pytest.raises(NotFoundError, match="none"):
        store.get("none", max_bytes=9)
    assert store.get("a", max_bytes=250) == BODY
    asked = [name for verb, name in ftp.log if verb not in {"USER", "TYPE", "PASV"}]
    assert asked == ["/in/a", "/in/empty", "/in/huge", "/in/none", "/in/a"]
    assert ftp.n_sent < 64 << 20


class ArchiveError(Exception):
    """A library's own."""


class Unreadable(AbstractArchiveFileSystem):
    """An archive that is read when it is first looked through, as libarchive does."""

    def _get_dirs(self):
        raise ArchiveError("Damaged tar archive")


def test_the_error_of_an_archives_library_is_a_store_error_that_names_the_archive():
    with pytest.raises(StoreError, match=r"cannot open .*/in: ArchiveError: Damaged tar") as caught:
        open_store("in", filesystem=Unreadable())
    assert isinstance(caught.value.__cause__, ArchiveError)


def test_a_truncated_archive_is_a_store_error_that_names_it(tmp_path):
    url = tarred({"a": BODY}, tmp_path)
    path = tmp_path / "in.tar.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"cannot open tar://.*in\.tar\.gz"):
        open_store(url)
