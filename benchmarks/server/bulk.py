"""What a link gives: many streams of ranged GETs of the same objects, without looking at them.

    python -m benchmarks.server.bulk '{"endpoint": ..., "keys": [...], "streams": 16, "seconds": 4}'

Standard library only. Prints bytes per second between the first and the last second, the time to
connect (one round trip) and the time to a first byte (another one and the server's).
"""

import json
import statistics
import sys
import threading
import time
from http.client import HTTPConnection, HTTPResponse
from itertools import cycle
from typing import Final
from urllib.parse import urlsplit

_PIECE: Final = 4 * 2**20
_PROBES: Final = 15


def ranged(connection: HTTPConnection, key: str, start: int, size: int) -> HTTPResponse:
    """Ask for bytes of an object."""
    connection.request("GET", f"/{key}", headers={"Range": f"bytes={start}-{start + size - 1}"})
    return connection.getresponse()


def probe(host: str, port: int, key: str) -> tuple[float, float]:
    """Return the medians of the milliseconds to connect and to a first byte."""
    connects, firsts = [], []
    for _ in range(_PROBES):
        connection = HTTPConnection(host, port)
        start = time.perf_counter()
        connection.connect()
        connects.append(time.perf_counter() - start)
        start = time.perf_counter()
        ranged(connection, key, 0, 1).read()
        firsts.append(time.perf_counter() - start)
        connection.close()
    return statistics.median(connects) * 1e3, statistics.median(firsts) * 1e3


class Bulk:
    """Streams that take the next piece of the next object."""

    def __init__(self, host: str, port: int, keys: list[str]) -> None:
        self._address = host, port
        self._pieces = self._endless(keys)
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self.received = 0

    def _endless(self, keys: list[str]):  # noqa: ANN202 - a generator of (key, start)
        sizes: dict[str, int] = {}
        for key in cycle(keys):
            if key not in sizes:
                connection = HTTPConnection(*self._address)
                connection.request("HEAD", f"/{key}")
                sizes[key] = int(connection.getresponse().headers["Content-Length"])
                connection.close()
            for start in range(0, sizes[key], _PIECE):
                yield key, start

    def stream(self) -> None:
        """Read until it has ended."""
        connection = HTTPConnection(*self._address)
        buffer = memoryview(bytearray(2**18))
        while not self.ended.is_set():
            with self._lock:
                key, start = next(self._pieces)
            response = ranged(connection, key, start, _PIECE)
            while n := response.readinto(buffer):
                with self._lock:
                    self.received += n
                if self.ended.is_set():
                    return


def main() -> None:
    """Read for some seconds and print what came."""
    asked = json.loads(sys.argv[1])
    url = urlsplit(asked["endpoint"])
    host, port = url.hostname or "", url.port or 80
    connect_ms, first_byte_ms = probe(host, port, asked["keys"][0])
    bulk = Bulk(host, port, asked["keys"])
    for _ in range(asked["streams"]):
        threading.Thread(target=bulk.stream, daemon=True).start()
    time.sleep(1.0)  # slow start
    start, before = time.perf_counter(), bulk.received
    time.sleep(asked["seconds"])
    speed = (bulk.received - before) / (time.perf_counter() - start)
    bulk.ended.set()
    print(
        json.dumps({"bytes_per_s": speed, "connect_ms": connect_ms, "first_byte_ms": first_byte_ms})
    )


if __name__ == "__main__":
    main()
