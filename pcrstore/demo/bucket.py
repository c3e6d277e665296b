"""A bucket on this machine: moto's S3 server, in this process."""

import contextlib
import logging
import os
import secrets
import urllib.request
from collections.abc import Iterator
from importlib import import_module

from pcrstore.storage import open_store

__all__ = ["bucket"]


@contextlib.contextmanager
def bucket() -> Iterator[tuple[str, dict[str, object]]]:
    """Serve an empty bucket on the loopback interface; yield a URL in it, and its options."""
    with _quiet(), _environment():
        server = import_module("moto.server").ThreadedMotoServer(
            ip_address="127.0.0.1", port=0, verbose=False
        )
        server.start()
        try:
            host, port = server.get_host_and_port()
            endpoint = f"http://{host}:{port}"
            # moto keeps the buckets of all its servers in one place, as long as the process lives.
            name = f"demo-{secrets.token_hex(4)}"
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            made = urllib.request.Request(f"{endpoint}/{name}", method="PUT")  # noqa: S310 - ours
            direct.open(made, timeout=20).close()
            url = f"s3://{name}/photos"
            options: dict[str, object] = {
                "key": "demo",
                "secret": "demo",
                "endpoint_url": endpoint,
                "client_kwargs": {"region_name": "us-east-1"},
            }
            yield url, options
            store = open_store(url, options)
            store.delete([entry.name for entry in store.list("")])
        finally:
            server.stop()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the web server from logging every request."""
    logs = [logging.getLogger(name) for name in ("werkzeug", "moto")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Hide accounts, profiles and proxies of the user from the demo."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        NO_PROXY="127.0.0.1",
        no_proxy="127.0.0.1",
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
