"""A loopback server that speaks enough S3 for one bucket, and misbehaves on demand.

`script` holds what to do with the next requests, `then` with all after them (each sets `asked`):

    ok  503 429 "409 CODE"   reset   stall      lost: done, then reset      cut: half of the body
    late: ok, once `released` is set
    whole: 200 with all bytes despite Range   shifted: another range    short: an honest short 206
    unsized: as whole, and the end of the connection is the end of the body
"""

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STAMP = "Wed, 21 Oct 2015 07:28:00 GMT"


class Zeros:
    """An object of any size, which takes no memory."""

    def __init__(self, n_bytes):
        self.n_bytes = n_bytes

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.n_bytes)
        return Zeros(stop - start)

    def __iter__(self):
        """In pieces, as it is sent."""
        for start in range(0, self.n_bytes, PIECE):
            yield bytes(min(PIECE, self.n_bytes - start))


PIECE = 65_536


class ScriptedS3:
    def __init__(self):
        self.objects = {}
        self.script = []
        self.then = "ok"
        self.log = []
        self.headers = {}
        self.n_sent = 0
        self.asked = threading.Event()
        self.released = threading.Event()
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args):
                pass

            def do_GET(self):
                outer.answer(self)

            do_PUT = do_HEAD = do_DELETE = do_GET  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.handle_error = lambda *_args: None
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def gets(self):
        return [ranged for method, _path, ranged in self.log if method == "GET"]

    def answer(self, request):
        name = request.path.partition("?")[0]
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Transfer-Encoding") == "chunked":
            body = _dechunk(request.rfile)
        elif "aws-chunked" in request.headers.get("Content-Encoding", ""):
            body = _unwrap(body)
        with self.lock:
            self.log.append((request.command, name, request.headers.get("Range")))
            fault = self.script.pop(0) if self.script else self.then
        self.asked.set()
        if fault == "reset":
            return _reset(request)
        if fault == "stall":
            self.released.wait(20)
            return _reset(request)
        if fault == "late":
            self.released.wait(20)
        status, _, code = fault.partition(" ")
        if status.isdigit():
            error = f"<Error><Code>{code or 'Scripted'}</Code></Error>"
            return self.reply(request, int(status), error.encode())
        status, out, extra = self.perform(request, name, body, fault)
        if fault == "lost":
            return _reset(request)
        if fault == "unsized":
            extra = {**extra, "Content-Length": None}
            request.close_connection = True
        return self.reply(request, status, out, extra, cut=fault == "cut")

    def perform(self, request, name, body, fault):
        with self.lock:
            if request.command == "PUT":
                if request.headers.get("If-None-Match") == "*" and name in self.objects:
                    error = b"<Error><Code>PreconditionFailed</Code><Message>m</Message>"
                    return 412, error + b"<Condition>If-None-Match</Condition></Error>", {}
                self.objects[name] = body
                return 200, b"", {}
            if name not in self.objects:
                return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
            whole = self.objects[name]
        ranged = request.headers.get("Range")
        if not ranged or fault in {"whole", "unsized"}:
            return 200, whole, {}
        size = whole.n_bytes if isinstance(whole, Zeros) else len(whole)
        start, stop = (int(x) for x in ranged.removeprefix("bytes=").split("-"))
        stop = min(stop + 1, size)
        if start >= size:
            return 416, b"<Error><Code>InvalidRange</Code></Error>", {}
        if fault == "shifted":
            start, stop = start + 1, stop + 1
        if fault == "short":
            stop -= 1
        where = f"bytes {start}-{stop - 1}/{size}"
        return 206, whole[start:stop], {"Content-Range": where}

    def reply(self, request, status, body, extra=None, *, cut=False):
        request.send_response(status)
        size = body.n_bytes if isinstance(body, Zeros) else len(body)
        fields = {"ETag": '"e"', "Last-Modified": STAMP, "Content-Length": str(size)}
        for field, value in {**fields, **(extra or {}), **self.headers}.items():
            if value is not None:
                request.send_header(field, value)
        request.end_headers()
        if request.command != "HEAD":
            body = body[: size // 2] if cut else body
            for piece in body if isinstance(body, Zeros) else [body]:
                request.wfile.write(piece)
                self.n_sent += len(piece)
        if cut:
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True


def _reset(request):
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
    request.close_connection = True


def _dechunk(stream):
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
    return body


def _unwrap(body):
    head, _, rest = body.partition(b"\r\n")
    return rest[: int(head.split(b";")[0], 16)]
