"""What the servers share: the bucket, the options that reach one, a server in threads."""

import threading
from pathlib import Path
from socketserver import BaseServer
from typing import Final, Self

BUCKET: Final = "bench"


def options_of(endpoint: str) -> dict[str, object]:
    """Return the fsspec options that reach a server; it looks at no signature."""
    return {"endpoint_url": endpoint, "key": "bench", "secret": "bench"}


def folder_of(root: Path) -> Path:
    """Return the bucket's folder below a root, made if need be."""
    folder = root / BUCKET
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Threaded:
    """A server that answers in threads of this process while it is entered."""

    def __init__(self, server: BaseServer) -> None:
        self.server = server
        self._thread = threading.Thread(target=server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
