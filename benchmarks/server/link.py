"""A link of a given rate and round trip between two network namespaces, as a process of its own.

    namespace NAME-s            this process              namespace NAME-c
    nginx  10.99.0.1 ── TUN ── queue, rate, delay ── TUN ── 10.99.0.2  client

Without a rate and a round trip there is one namespace with a loopback of its own, as the machine's
may have an MTU and a congestion control under which mid-sized answers stall. The process holds the
namespaces: when its standard input ends, which it does however the parent dies, what still runs in
them is killed and they are gone. Linux, as root; `tc netem` would do but few kernels have it.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

SERVER: Final = "10.99.0.1"
CLIENT: Final = "10.99.0.2"
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUN_FLAGS: Final = 0x0001 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
_OFFLOAD: Final = 0x01 | 0x02  # TUN_F_CSUM, TUN_F_TSO4: packets of up to 64 kB
_MTU: Final = 1500
_PAYLOAD: Final = 1448
_HEADERS: Final = 52
"""IP, TCP and timestamps of each frame that a packet of up to 64 kB stands for, which has one."""
_VNET_HEADER: Final = 10
"""Before each packet, and on no wire."""
_BATCH: Final = 64
_TICK: Final = 1e-3
"""Seconds between two looks at a link that has packets. Woken for each packet, this process and the
server took the cores from decoders 2,200 times a second at 7 MB/s, which cost 10 % of decoding."""

Queue = deque[tuple[float, bytes]]


def names(name: str) -> tuple[str, str]:
    """Return the namespaces of the server and of the client."""
    return f"{name}-s", f"{name}-c"


class Link:
    """Two namespaces and the queues between them."""

    def __init__(self, name: str, *, rtt: float, rate: float, queue: float) -> None:
        """Make the namespaces.

        Args:
            name: What their names begin with.
            rtt: Seconds of a round trip.
            rate: Bytes per second in each direction.
            queue: Bytes that wait before packets are dropped.
        """
        self._tick = _TICK if rtt >= 10 * _TICK else 0.0
        # A packet waits half a tick to be sent, about.
        self._delay = rtt / 2 - self._tick / 2
        self._rate = rate
        self._longest = queue / rate
        self.dropped = 0
        server, client = (
            _tun(namespace, address)
            for namespace, address in zip(names(name), (SERVER, CLIENT), strict=True)
        )
        self._queues: dict[int, tuple[Queue, int]] = {
            server: (deque(), client),
            client: (deque(), server),
        }
        self._free = dict.fromkeys(self._queues, 0.0)

    def forward(self, until: int) -> None:
        """Forward packets until a file descriptor can be read."""
        while True:
            due = self._send()
            late = 0.0
            if due is not None and self._tick:
                ready, _, _ = select.select((until,), (), (), self._tick)
                late = self._tick / 2
            else:
                wait = None if due is None else max(0.0, due - time.monotonic())
                ready, _, _ = select.select((*self._queues, until), (), (), wait)
            if until in ready:
                return
            for source in self._queues:
                self._receive(source, late)

    def _send(self) -> float | None:
        """Write the packets whose time has come; return when the next one's does."""
        now = time.monotonic()
        due = None
        for queue, target in self._queues.values():
            while queue and queue[0][0] <= now:
                try:
                    os.write(target, queue.popleft()[1])
                except OSError:
                    self.dropped += 1
            if queue and (due is None or queue[0][0] < due):
                due = queue[0][0]
        return due

    def _receive(self, source: int, late: float) -> None:
        """Take in what has come; it lay there for `late` seconds, about."""
        queue, _ = self._queues[source]
        for _ in range(_BATCH):
            try:
                packet = os.read(source, 70_000)
            except BlockingIOError:
                return
            now = time.monotonic() - late
            start = max(now, self._free[source])
            if start - now > self._longest:
                self.dropped += 1
                continue
            size = len(packet) - _VNET_HEADER
            n_frames = max(1, -(-(size - _HEADERS) // _PAYLOAD))
            size += (n_frames - 1) * _HEADERS
            self._free[source] = start + size / self._rate
            queue.append((self._free[source] + self._delay, packet))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def _inside(namespace: str):  # noqa: ANN202 - a generator for contextmanager
    """Be in a namespace; os.setns came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
        yield
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(there)
        os.close(home)


def _namespace(namespace: str) -> None:
    _ip("netns", "add", namespace)
    _ip("-n", namespace, "link", "set", "lo", "up", "mtu", "9000")
    _ip("-n", namespace, "route", "change", "local", "127.0.0.1", "dev", "lo", "table", "local",
        "congctl", "cubic")  # fmt: skip


def _tun(namespace: str, address: str) -> int:
    """Return a TUN device whose other side is the interface of a new namespace."""
    _namespace(namespace)
    with _inside(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wan0", _TUN_FLAGS))
        fcntl.ioctl(device, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HEADER))
        fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOAD)
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "wan0")
    _ip("-n", namespace, "link", "set", "wan0", "mtu", str(_MTU), "txqueuelen", "2000", "up")
    _ip("-n", namespace, "route", "change", f"{SERVER.rpartition('.')[0]}.0/24", "dev", "wan0",
        "src", address, "congctl", "cubic")  # fmt: skip
    return device


def remove(name: str) -> None:
    """Kill what runs in the namespaces of a name, and remove them."""
    for namespace in names(name):
        if not Path(f"/run/netns/{namespace}").exists():
            continue
        found = subprocess.run(
            ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
        )
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", namespace], check=False)


def main() -> None:
    """Hold the namespaces until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what the names of the namespaces begin with")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--mbit", type=float, default=0.0, help="0: a loopback alone")
    parser.add_argument("--queue-mb", type=float, default=4.0)
    args = parser.parse_args()
    # Ctrl-C goes to the parent as well, which ends this process when it has ended the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if args.mbit:
            # Wires and switches do not wait for the contestants' decoders to leave them a core.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, -20)
            link = Link(
                args.name,
                rtt=args.rtt_ms / 1e3,
                rate=args.mbit * 1e6 / 8,
                queue=args.queue_mb * 1e6,
            )
            print("up", flush=True)
            link.forward(sys.stdin.fileno())
        else:
            _namespace(names(args.name)[0])
            print("up", flush=True)
            sys.stdin.read()
    finally:
        remove(args.name)


if __name__ == "__main__":
    main()
