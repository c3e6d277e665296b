"""ListObjectsV2 over a folder, and a server of it on a Unix socket for nginx, which cannot list.

GET /bucket?list-type=2&prefix=...&delimiter=/&continuation-token=...  ──▶  XML, 1,000 at a time
"""

import os
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from benchmarks.server.base import Threaded

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_STAMP: Final = "2015-10-21T07:28:00.000Z"
_MOST: Final = 1000


def keys_below(bucket: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the keys that begin with a prefix and their sizes, in the order of their bytes."""
    start = bucket / prefix.rpartition("/")[0]
    if not start.resolve().is_relative_to(bucket.resolve()):
        return
    found: list[str] = []
    for folder, _, files in os.walk(start):
        below = Path(folder).relative_to(bucket).as_posix()
        found.extend(name if below == "." else f"{below}/{name}" for name in files)
    for key in sorted(found, key=lambda k: k.encode()):
        if key.startswith(prefix):
            yield key, (bucket / key).stat().st_size


def listing(folder: Path, bucket: str, query: str) -> bytes:
    """Return the answer to `/bucket?query`, where the bucket's objects lie in a folder."""
    asked = {name: values[0] for name, values in parse_qs(query).items()}
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    after = asked.get("continuation-token") or asked.get("start-after", "")
    most = min(int(asked.get("max-keys", _MOST)), _MOST)
    rows: dict[str, str] = {}
    last, more = "", False
    for key, size in keys_below(folder, prefix):
        below, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        row = prefix + below + delimiter if found else key
        if key <= after:
            continue
        if row not in rows and len(rows) == most:
            more = True
            break
        last = key
        rows[row] = (
            f"<CommonPrefixes><Prefix>{escape(row)}</Prefix></CommonPrefixes>"
            if found
            else f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
            f"<LastModified>{_STAMP}</LastModified><ETag>&quot;{size:x}&quot;</ETag>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{_NAMESPACE}">'
        f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(rows)}"
        f"</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"{token}{''.join(rows.values())}</ListBucketResult>"
    ).encode()


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class Lister(Threaded):
    """Answers LIST of a folder of buckets on a Unix socket while it is entered."""

    def __init__(self, folder: Path, socket: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                bucket = unquote(url.path).strip("/").split("/")[0]
                body = listing(folder / bucket, bucket, url.query)
                self.send_response_only(200)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Date", formatdate(usegmt=True))
                self.end_headers()
                self.wfile.write(body)

        socket.unlink(missing_ok=True)
        super().__init__(_Server(str(socket), Handler))
