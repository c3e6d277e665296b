"""Every use of a dataset that reads what its manifest names, each by its URL.

    python tests/support/uses.py GOOD BAD

runs each use on a good dataset, to import what it needs, and then on a bad one; prints a line of
JSON for each: the error, and the memory that it took beyond what the process had.
"""

import json
import os
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pcrstore


def first(items):
    return next(iter(items))


def command(name, *options):
    """A command that fails as the error that it reports."""

    def use(url):
        from click.testing import CliRunner  # noqa: PLC0415 - only where commands are used

        from pcrstore.cli import main  # noqa: PLC0415 - as above

        result = CliRunner().invoke(main, [name, url, *options, "--json"])
        found = json.loads(result.stdout)
        if "error" in found:
            error = getattr(pcrstore.errors, found["error"]["type"], RuntimeError)
            raise error(f"exit {result.exit_code}: {found['error']['message']}")
        if not found.get("ok", True):
            raise pcrstore.FormatError(f"exit {result.exit_code}: {found}")

    return use


def numpy_loader(url):
    with pcrstore.NumpyLoader(url, batch_size=4, size=16, apply_orientation=True) as loader:
        for _ in loader:
            pass


def of_torch(name, **options):
    def use(url):
        import torch  # noqa: PLC0415 - only where it is used

        import pcrstore.torch as of  # noqa: PLC0415 - as above

        torch.set_num_threads(1)
        made = getattr(of, name)(url, size=16, apply_orientation=True, **options)
        if name == "MapDataset":
            made.__getitems__(range(min(len(made), 20)))
            return
        for _ in made:
            pass

    return use


def view(url):
    from pcrstore.zarr_view import zarr_view  # noqa: PLC0415 - only where it is used

    zarr_view(url)["labels"][:]


def datasource(url, **options):
    from pcrstore.ray import PcrstoreDatasource  # noqa: PLC0415 - only where it is used

    for task in PcrstoreDatasource(url, **options).get_read_tasks(1):
        for _ in task():
            pass


USES = {
    "column": lambda url: pcrstore.open(url).column("label"),
    "column-of-one": lambda url: pcrstore.open(url).column("key", [-1]),
    "find": lambda url: pcrstore.open(url).find(label=0),
    "find-all": lambda url: pcrstore.open(url).find(),
    "labels": lambda url: pcrstore.open(url).labels,
    "iter": lambda url: [*pcrstore.open(url)],
    "getitem": lambda url: pcrstore.open(url)[-1],
    "fetch": lambda url: pcrstore.open(url).fetch([0, -1], "original"),
    "plan": lambda url: pcrstore.open(url).plan(range(len(pcrstore.open(url)))),
    "numpy": numpy_loader,
    "torch": of_torch("Loader", batch_size=4),
    "torch-iterable": of_torch("IterableDataset"),
    "torch-map": of_torch("MapDataset"),
    "ls": command("ls"),
    "info": command("info"),
    "verify": command("verify"),
    "zarr": view,
    "ray": datasource,
    "ray-where": lambda url: datasource(url, where=lambda columns: columns["label"] >= 0),
}
NEEDED = {"torch": "torch", "zarr": "zarr", "ray": "ray"}
USES = {
    name: use
    for name, use in USES.items()
    if find_spec(NEEDED.get(name.split("-")[0], "pcrstore")) is not None
}


def peak(status=Path("/proc/self/status")):
    """Return the largest and the present resident size in bytes."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))


def main(good, bad):
    for name, use in USES.items():
        with suppress(pcrstore.StoreError):  # as `verify`, of a store that cannot list
            use(good)
        Path("/proc/self/clear_refs").write_text("5")  # the largest size begins anew
        before = peak()[1]
        started = time.monotonic()
        error = message = None
        try:
            use(bad)
        except Exception as e:  # noqa: BLE001 - which error it is, is what is asked
            error, message = type(e).__name__, str(e)
        row = {
            "use": name,
            "error": error,
            "message": message,
            "bytes": peak()[0] - before,
            "seconds": time.monotonic() - started,
        }
        print(json.dumps(row), flush=True)  # noqa: T201 - for the parent


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # no threads of other libraries are waited for
