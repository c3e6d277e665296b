"""An S3 to measure against: a folder behind a link of a given rate, round trip and first byte.

    python -m benchmarks serve FOLDER [--mbit 200] [--rtt-ms 20] [--first-byte-ms 30] [--check]

It serves until Ctrl-C, or with --check measures its own link and ends.
"""

import argparse
import json
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.needs import LINK, NGINX
from benchmarks.results import Report
from benchmarks.server.shaped import Shaped

NEEDS: Final = (NGINX, LINK)
PAYLOAD: Final = 1448 / 1500
"""Share of a full frame that is not IP, TCP and timestamps."""
STREAMS: Final = 16
SECONDS: Final = 4.0
"""Of the bulk download."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the link."""
    parser.add_argument("folder", type=Path, help="its subfolders are the buckets")
    parser.add_argument("--mbit", type=float, default=0.0, help="0: no limit")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--first-byte-ms", type=float, default=0.0)
    parser.add_argument("--proxy", action="store_true", help="no network namespaces")
    parser.add_argument("--check", action="store_true", help="measure the link and leave")


def measure(served: Shaped, report: Report) -> None:
    """Compare the link with what was asked for: bulk rate and round trip."""
    bulk = served.folder / "_link"
    bulk.mkdir(exist_ok=True)
    try:
        with (bulk / "zeros").open("wb") as f:
            f.truncate(2**28)
        asked = {
            "endpoint": served.endpoint,
            "keys": ["_link/zeros"] * 100,
            "streams": STREAMS,
            "seconds": SECONDS,
        }
        command = [sys.executable, "-m", "benchmarks.server.bulk", json.dumps(asked)]
        found = json.loads(served.run(command))
    finally:
        shutil.rmtree(bulk)
    report.add("time to connect", found["connect_ms"], "ms")
    report.add("time to a first byte", found["first_byte_ms"], "ms")
    mbit = found["bytes_per_s"] * 8 / 1e6
    if not served.mbit:
        report.add(f"rate of bodies by {STREAMS} streams", mbit, "Mbit/s")
        return
    wanted = served.mbit * PAYLOAD
    report.add(f"rate of bodies by {STREAMS} streams", mbit, "Mbit/s",
               at_least=0.95 * wanted, at_most=1.05 * wanted)  # fmt: skip
    # One to connect, one to a first byte; through the proxy both are waited for with the latter.
    round_trip = (found["connect_ms"] + found["first_byte_ms"] - served.first_byte_ms) / 2
    report.add("round trip", round_trip, "ms", at_least=served.rtt_ms, at_most=served.rtt_ms + 2)


def run(args: argparse.Namespace, report: Report) -> None:
    """Serve until Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    with Shaped(
        args.folder,
        mbit=args.mbit,
        rtt_ms=args.rtt_ms,
        first_byte_ms=args.first_byte_ms,
        proxy=args.proxy,
    ) as served:
        print(f"endpoint: {served.endpoint}")
        print(f"run clients with: {' '.join(served.command([])) or 'nothing before them'}")
        if args.check:
            measure(served, report)
            return
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.pause()
        answered = served.counters()
        report.add("requests", answered.requests)
        report.add("body bytes", answered.bytes, "B")
