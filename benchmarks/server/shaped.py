"""An S3 to measure against: a folder behind a link of a given rate, round trip and first byte.

    python -m benchmarks.server.shaped FOLDER [--mbit 200] [--rtt-ms 20] [--first-byte-ms 30] [--json]

    FOLDER/bucket/key ── nginx: GET (ranges), HEAD, LIST; counts ── link ── http://.../bucket/key

The link is two network namespaces joined by TUN devices (`_link`) where the user is root on Linux,
else a proxy on the loopback (`_proxy`); without a rate and a round trip it is a loopback.
Signatures are not looked at. Run as a program it serves until Ctrl-C, or with --check measures its
own link and ends. nginx with its Lua module serves; Debian: nginx-light libnginx-mod-http-lua.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.common import Report
from benchmarks.server import link as _link
from benchmarks.server.listing import Lister

ROOT: Final = Path(__file__).absolute().parents[2]
STATS: Final = "/_stats"
_PACKAGES: Final = "Debian, Ubuntu: apt-get install nginx-light libnginx-mod-http-lua"
_MODULES: Final = (
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/share/nginx/modules",
)
_NEEDED: Final = ("ndk_http_module.so", "ngx_http_lua_module.so")
PAYLOAD: Final = 1448 / 1500
"""Share of a full frame that is not IP, TCP and timestamps."""
_PATIENCE: Final = 10.0
"""Seconds to wait for a process to come up."""

_CONFIG: Final = """
daemon off; worker_processes 1; pid nginx.pid; error_log error.log; {user}
{modules}
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; sendfile_max_chunk 512k;
  keepalive_timeout 300; keepalive_requests 100000000; etag on;
  default_type binary/octet-stream; lua_shared_dict counted 1m;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
  scgi_temp_path t5;
  server {{
    listen {address} backlog=4096; listen unix:{control}; root {folder};
    log_by_lua_block {{
      if ngx.var.uri == "/_stats" then return end
      local counted = ngx.shared.counted
      counted:incr("requests", 1, 0)
      counted:incr("bytes", tonumber(ngx.var.body_bytes_sent) or 0, 0)
    }}
    error_page 404 = @absent;
    location @absent {{
      default_type application/xml;
      return 404 "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>";
    }}
    location = /_stats {{
      content_by_lua_block {{
        local counted = ngx.shared.counted
        ngx.say(counted:get("requests") or 0, " ", counted:get("bytes") or 0)
        if ngx.var.arg_reset then counted:flush_all() end
      }}
    }}
    location @list {{ proxy_pass http://unix:{lister}:; }}
    location / {{
      max_ranges 1;
      rewrite_by_lua_block {{
        {sleep}
        if ngx.var.args and ngx.var.args:find("list-type=2", 1, true) then
          return ngx.exec("@list")
        end
      }}
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the server has answered."""

    requests: int
    bytes: int
    """Of bodies."""


class MissingError(SystemExit):
    """Something must be installed; the message says what."""


class Shaped:
    """A folder of buckets served behind a link, while entered.

    Everything that it starts ends with it, and with the process, however that ends.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        mbit: float = 0.0,
        rtt_ms: float = 0.0,
        first_byte_ms: float = 0.0,
        namespaces: bool | None = None,
    ) -> None:
        """Say what to serve.

        Args:
            folder: Its subfolders are the buckets.
            mbit: Rate in each direction, 10^6 bits per second; 0 is no limit.
            rtt_ms: Round trip.
            first_byte_ms: How long the server waits before each answer.
            namespaces: Whether to use network namespaces; None is wherever that is possible.
        """
        if rtt_ms and not mbit:
            raise SystemExit("a round trip needs a rate: give mbit as well")
        self.folder = Path(folder).resolve()
        self.mbit = mbit
        self.rtt_ms = rtt_ms
        self.first_byte_ms = first_byte_ms
        self.namespaces = possible() if namespaces is None else namespaces
        self.endpoint = ""
        self._name = f"pcrstore{os.getpid()}"
        self._server, self._client = ("", "")
        self._stack = ExitStack()
        self._control = Path()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def options(self) -> dict[str, object]:
        """Return the fsspec options that reach it."""
        return {"endpoint_url": self.endpoint, "key": "bench", "secret": "bench"}

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return a command that runs another at the client's end of the link."""
        return [*_within(self._client), *argv]

    def run(self, argv: Sequence[str]) -> str:
        """Run a command at the client's end; return its standard output.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        return subprocess.run(
            self.command(argv), check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ).stdout

    def counters(self) -> Counted:
        """Return what has been answered since the start or the last reset."""
        return self._stats(STATS)

    def reset(self) -> Counted:
        """Return what has been answered, and forget it."""
        return self._stats(f"{STATS}?reset=1")

    def _stats(self, target: str) -> Counted:
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        with connection.sock:
            connection.sock.settimeout(_PATIENCE)
            connection.sock.connect(str(self._control))
            connection.request("GET", target)
            n, size = connection.getresponse().read().split()
        return Counted(requests=int(n), bytes=int(size))

    def _start(self) -> None:
        run = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pcrstore-")))
        self._control = run / "control.sock"
        lister = run / "list.sock"
        self._stack.enter_context(Lister(self.folder, lister))
        host = self._namespaces() if self.namespaces else "127.0.0.1"
        port = 80 if self.namespaces else _free_port()
        (run / "nginx.conf").write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",
                modules=_modules(),
                address=f"{host}:{port}",
                control=self._control,
                folder=self.folder,
                lister=lister,
                sleep=f"ngx.sleep({self.first_byte_ms / 1e3})" if self.first_byte_ms else "",
            )
        )
        command = [_nginx(), "-p", str(run), "-c", str(run / "nginx.conf"), "-e", "error.log"]
        nginx = subprocess.Popen([*_within(self._server), *command], start_new_session=True)
        self._stack.callback(_stop, nginx)
        self._await(nginx, run / "error.log")
        if not self.namespaces and self.mbit:
            port = self._proxy(port)
        self.endpoint = f"http://{host}:{port}"

    def _await(self, nginx: subprocess.Popen[bytes], log: Path) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and nginx.poll() is None:
            with suppress(OSError):
                self.counters()
                return
            time.sleep(0.02)
        raise SystemExit(f"nginx did not start: {log.read_text() if log.exists() else ''}")

    def _namespaces(self) -> str:
        """Make the namespaces; return the server's address."""
        self._server = self._client = _link.names(self._name)[0]
        host = "127.0.0.1"
        command = [sys.executable, "-m", "benchmarks.server.link", self._name]
        if self.mbit:
            self._client = _link.names(self._name)[1]
            host = _link.SERVER
            command += ["--mbit", str(self.mbit), "--rtt-ms", str(self.rtt_ms)]
        self._helper(command)
        return host

    def _proxy(self, port: int) -> int:
        command = [sys.executable, "-m", "benchmarks.server.proxy", str(port)]
        return int(self._helper([*command, "--mbit", str(self.mbit), "--rtt-ms", str(self.rtt_ms)]))

    def _helper(self, command: Sequence[str]) -> str:
        """Start a process that ends with its standard input; return its first line."""
        helper = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(_end, helper)
        line = helper.stdout.readline() if helper.stdout else ""
        if not line:
            raise SystemExit(f"{' '.join(command)} did not start")
        return line


def possible() -> bool:
    """Return whether network namespaces can be made here."""
    return (
        sys.platform == "linux"
        and os.geteuid() == 0
        and shutil.which("ip") is not None
        and Path("/dev/net/tun").exists()
    )


def _within(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


def _nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found:
        raise MissingError(f"nginx is missing. {_PACKAGES}")
    return found


def _modules() -> str:
    """Return the lines that load Lua."""
    for folder in map(Path, _MODULES):
        if all((folder / name).exists() for name in _NEEDED):
            return "\n".join(f"load_module {folder / name};" for name in _NEEDED)
    raise MissingError(f"nginx's Lua module is missing. {_PACKAGES}")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _end(helper: subprocess.Popen[str]) -> None:
    helper.communicate()  # closes its standard input


def measure(served: Shaped, report: Report, *, streams: int = 16, seconds: float = 4.0) -> None:
    """Compare the link with what was asked for: bulk rate and round trip."""
    bulk = served.folder / "_link"
    bulk.mkdir(exist_ok=True)
    try:
        with (bulk / "zeros").open("wb") as f:
            f.truncate(2**28)
        asked = {
            "endpoint": served.endpoint,
            "keys": ["_link/zeros"] * 100,
            "streams": streams,
            "seconds": seconds,
        }
        found = json.loads(
            served.run([sys.executable, "-m", "benchmarks.server.bulk", json.dumps(asked)])
        )
    finally:
        shutil.rmtree(bulk)
    report.note("connect_ms", round(found["connect_ms"], 2))
    report.note("first_byte_ms", round(found["first_byte_ms"], 2))
    mbit = found["bytes_per_s"] * 8 / 1e6
    if not served.mbit:
        report.note("mbit", round(mbit))
        return
    wanted = served.mbit * PAYLOAD
    report.check(
        f"rate by {streams} streams", f"{mbit:.1f} Mbit/s of bodies",
        f"{wanted:.1f} +- 5 %, {served.mbit} with headers",
        ok=0.95 <= mbit / wanted <= 1.05,
    )  # fmt: skip
    # One to connect, one to a first byte; through the proxy both are waited for with the latter.
    round_trip = (found["connect_ms"] + found["first_byte_ms"] - served.first_byte_ms) / 2
    report.check(
        "round trip", f"{round_trip:.2f} ms", f"{served.rtt_ms} + at most 2 ms",
        ok=served.rtt_ms <= round_trip <= served.rtt_ms + 2,
    )  # fmt: skip


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="its subfolders are the buckets")
    parser.add_argument("--mbit", type=float, default=0.0, help="0: no limit")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--first-byte-ms", type=float, default=0.0)
    parser.add_argument("--proxy", action="store_true", help="a proxy, even as root")
    parser.add_argument("--check", action="store_true", help="measure the link and leave")
    parser.add_argument("--json", action="store_true", dest="as_json")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    report = Report(benchmark="serve", as_json=args.as_json)
    with Shaped(
        args.folder,
        mbit=args.mbit,
        rtt_ms=args.rtt_ms,
        first_byte_ms=args.first_byte_ms,
        namespaces=False if args.proxy else None,
    ) as served:
        report.note("endpoint", served.endpoint)
        report.note("run clients with", " ".join(served.command([])) or "nothing before them")
        if args.check:
            measure(served, report)
            return report.finish()
        report.finish()
        with suppress(KeyboardInterrupt):
            signal.pause()
        print(
            json.dumps({"requests": served.counters().requests, "bytes": served.counters().bytes})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
