"""A loopback S3 that serves one folder read-only and counts every request and body byte."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from benchmarks.server.base import BUCKET, Threaded, options_of
from benchmarks.server.listing import listing

_STAMP: Final = "Wed, 21 Oct 2015 07:28:00 GMT"


class CountingS3(Threaded):
    """Counts requests and body bytes by kind: the first folder below the dataset, or `list`."""

    def __init__(self, folder: Path) -> None:
        """Listen.

        Args:
            folder: It is the bucket `bench`; the files below it are the objects.
        """
        self.folder = folder
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet

            def log_message(self, *_args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

            do_HEAD = do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815 - http.server's names

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.options = options_of(f"http://127.0.0.1:{server.server_port}")
        super().__init__(server)

    def clear(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._requests.clear()
            self._bytes.clear()

    def of(self, *kinds: str) -> tuple[int, int]:
        """Return the requests and body bytes of some kinds, of all when none is named."""
        with self._lock:
            chosen = kinds or tuple(self._requests)
            return sum(self._requests[k] for k in chosen), sum(self._bytes[k] for k in chosen)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        url = urlsplit(request.path)
        name = unquote(url.path).lstrip("/").removeprefix(BUCKET).lstrip("/")
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        extra: dict[str, str] = {}
        if request.command not in ("GET", "HEAD"):
            status, body, kind = 403, b"<Error><Code>AccessDenied</Code></Error>", "write"
        elif not name:
            status, body, kind = 200, listing(self.folder, BUCKET, url.query), "list"
        else:
            kind = name.split("/")[1] if "/" in name else name
            status, body, extra = self._object(name, request.headers.get("Range"))
        sent = b"" if request.command == "HEAD" else body
        with self._lock:
            self._requests[kind] += 1
            self._bytes[kind] += len(sent)
        request.send_response(status)
        fields = {"ETag": '"e"', "Last-Modified": _STAMP, "Content-Length": str(len(body)), **extra}
        for field, value in fields.items():
            request.send_header(field, value)
        request.end_headers()
        request.wfile.write(sent)
        request.wfile.flush()

    def _object(self, name: str, ranged: str | None) -> tuple[int, bytes, dict[str, str]]:
        path = self.folder / name
        if not path.is_file():
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        if ranged is None:
            return 200, path.read_bytes(), {}
        size = path.stat().st_size
        start, stop = (int(x) for x in ranged.removeprefix("bytes=").split("-"))
        stop = min(stop + 1, size)
        with path.open("rb") as f:
            f.seek(start)
            body = f.read(stop - start)
        return 206, body, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
