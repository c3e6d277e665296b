"""An S3 to measure against: a folder behind a link of a given rate, round trip and first byte.

    FOLDER/bucket/key ── nginx: GET (ranges), HEAD, LIST; counts ── link ── http://.../bucket/key

The link is two network namespaces joined by TUN devices (`link`), or a proxy on the loopback
(`proxy`); without a rate and a round trip it is a loopback. Signatures are not looked at.
"""

import os
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
from typing import Final, Self

from benchmarks.needs import found_program, lua_modules
from benchmarks.results import ROOT
from benchmarks.server import link
from benchmarks.server.base import options_of
from benchmarks.server.listing import Lister

STATS: Final = "/_stats"
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
        proxy: bool = False,
    ) -> None:
        """Say what to serve.

        Args:
            folder: Its subfolders are the buckets.
            mbit: Rate in each direction, 10^6 bits per second; 0 is no limit.
            rtt_ms: Round trip.
            first_byte_ms: How long the server waits before each answer.
            proxy: Use no network namespaces, for which one must be root on Linux.
        """
        if rtt_ms and not mbit:
            raise SystemExit("a round trip needs a rate: give mbit as well")
        self.folder = Path(folder).resolve()
        self.mbit = mbit
        self.rtt_ms = rtt_ms
        self.first_byte_ms = first_byte_ms
        self.proxy = proxy
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

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def options(self) -> dict[str, object]:
        """Return the fsspec options that reach it."""
        return options_of(self.endpoint)

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
        host = "127.0.0.1" if self.proxy else self._namespaces()
        port = _free_port() if self.proxy else 80
        (run / "nginx.conf").write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",
                modules="\n".join(f"load_module {path};" for path in lua_modules()),
                address=f"{host}:{port}",
                control=self._control,
                folder=self.folder,
                lister=lister,
                sleep=f"ngx.sleep({self.first_byte_ms / 1e3})" if self.first_byte_ms else "",
            )
        )
        command = [
            found_program("nginx") or "nginx",
            "-p",
            str(run),
            "-c",
            str(run / "nginx.conf"),
            "-e",
            "error.log",
        ]
        nginx = subprocess.Popen([*_within(self._server), *command], start_new_session=True)
        self._stack.callback(_stop, nginx)
        self._await(nginx, run / "error.log")
        if self.proxy and self.mbit:
            port = self._through_proxy(port)
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
        self._server = self._client = link.names(self._name)[0]
        host = "127.0.0.1"
        command = [sys.executable, "-m", "benchmarks.server.link", self._name]
        if self.mbit:
            self._client = link.names(self._name)[1]
            host = link.SERVER
            command += ["--mbit", str(self.mbit), "--rtt-ms", str(self.rtt_ms)]
        self._helper(command)
        return host

    def _through_proxy(self, port: int) -> int:
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


def _within(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _end(helper: subprocess.Popen[str]) -> None:
    helper.communicate()  # closes its standard input
