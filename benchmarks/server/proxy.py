"""A TCP proxy on the loopback that delays and limits, for machines without root.

    client ── up: delay ──▶ server        all connections share one rate per direction
    client ◀── rate, delay ── server      the first bytes of a connection wait a round trip more

It stands for a link as far as a client can tell: there is no loss and no slow start. It runs as a
process of its own, so that its work is not the client's, and ends with its standard input.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Final

_CHUNK: Final = 65_536
_AHEAD: Final = 64
"""Chunks of a connection that may be under way, 4 MiB."""


@dataclass(slots=True)
class Pipe:
    """One direction, shared by all connections."""

    rate: float
    """Bytes per second; 0 is no limit."""
    delay: float
    """Seconds."""
    free: float = field(default=0.0)
    """When the bytes sent so far have left."""

    def arrival(self, size: int) -> float:
        """Return when so many bytes arrive at the other end."""
        now = time.monotonic()
        self.free = max(now, self.free) + (size / self.rate if self.rate else 0.0)
        return self.free + self.delay


async def _carry(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, pipe: Pipe, late: float
) -> None:
    """Carry bytes in their time until the source ends."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD)

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not data:
                target.close()
                return
            target.write(data)
            await target.drain()

    delivery = asyncio.create_task(deliver())
    try:
        while True:
            data = await source.read(_CHUNK)
            due = pipe.arrival(len(data)) + late
            late = 0.0
            await under_way.put((due, data))
            if not data:
                await delivery
                return
            # The sender is held back as by a full queue, so that connections share the rate.
            await asyncio.sleep(max(0.0, pipe.free - time.monotonic() - pipe.delay))
    except OSError:
        target.close()
    finally:
        delivery.cancel()


async def serve(target_port: int, *, rtt: float, rate: float) -> None:
    """Print the port and carry connections to another until cancelled.

    Args:
        target_port: On 127.0.0.1.
        rtt: Seconds of a round trip.
        rate: Bytes per second in each direction; 0 is no limit.
    """
    up, down = Pipe(rate, rtt / 2), Pipe(rate, rtt / 2)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", target_port)
            await asyncio.gather(
                _carry(reader, to_server, up, rtt), _carry(from_server, writer, down, 0.0)
            )

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def watch() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, daemon=True).start()
    await ended.wait()


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int, help="of the server, on 127.0.0.1")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--mbit", type=float, default=0.0, help="0: no limit")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(args.port, rtt=args.rtt_ms / 1e3, rate=args.mbit * 1e6 / 8))


if __name__ == "__main__":
    main()
