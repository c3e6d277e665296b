"""A loopback S3 that serves one folder read-only and counts every request and body byte.

The bucket is called `bench`; its objects are the files below the folder.
"""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET: Final = "bench"
_STAMP: Final = "Wed, 21 Oct 2015 07:28:00 GMT"
_ISO: Final = "2015-10-21T07:28:00.000Z"
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


class CountingS3:
    """Counts requests and body bytes by (method, kind).

    Kind is the first folder below the dataset, `list` for a LIST.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
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

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def options(self) -> dict[str, object]:
        """Return the fsspec options that reach it."""
        endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {"endpoint_url": endpoint, "key": "bench", "secret": "bench"}

    def clear(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self.requests.clear()
            self.bytes.clear()

    def of(self, *kinds: str) -> tuple[int, int]:
        """Return the requests and body bytes of some kinds, of all when none is named."""
        with self._lock:
            n = sum(v for (_, kind), v in self.requests.items() if not kinds or kind in kinds)
            size = sum(v for (_, kind), v in self.bytes.items() if not kinds or kind in kinds)
        return n, size

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        url = urlsplit(request.path)
        name = unquote(url.path).lstrip("/").removeprefix(BUCKET).lstrip("/")
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        extra: dict[str, str] = {}
        if request.command not in ("GET", "HEAD"):
            status, body, kind = 403, b"<Error><Code>AccessDenied</Code></Error>", "write"
        elif not name:
            status, body, kind = 200, self._list(parse_qs(url.query)), "list"
        else:
            kind = name.split("/")[1] if "/" in name else name
            status, body, extra = self._object(name, request.headers.get("Range"))
        sent = b"" if request.command == "HEAD" else body
        with self._lock:
            self.requests[request.command, kind] += 1
            self.bytes[request.command, kind] += len(sent)
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

    def _list(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        objects: list[str] = []
        folders: set[str] = set()
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if not name.startswith(prefix):
                continue
            below = name[len(prefix) :]
            if delimiter and delimiter in below:
                folders.add(prefix + below.split(delimiter)[0] + delimiter)
                continue
            objects.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{path.stat().st_size}</Size>"
                f"<LastModified>{_ISO}</LastModified><ETag>&quot;e&quot;</ETag>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>"
            for f in sorted(folders)
        )
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{_NAMESPACE}">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(objects) + len(folders)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{''.join(objects)}{common}</ListBucketResult>"
        ).encode()
