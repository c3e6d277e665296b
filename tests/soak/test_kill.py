"""A conversion survives `kill -9` at any moment.

Its whole process group is killed: half of the times anywhere in the time that it takes, half
shortly after it has noted a random number of its units, the last of which is followed by the
commit. The same command then goes on. The dataset must equal an uninterrupted run's byte for byte,
but for the manifest's writer and time; a reader that opens the destination again and again
meanwhile must have seen nothing or everything.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from small_sources import encoded, write_sources

import pcrstore
from pcrstore.dataset import read_manifest
from pcrstore.storage import open_store

pytestmark = pytest.mark.soak

KILLS = 20
N_IMAGES = 100
OBJECT_BYTES = 2**21
WAYS = {
    "record": {"layout": "record"},
    "zarr": {"layout": "zarr"},
    "zarr-by-chunks": {"layout": "zarr", "hold_bytes": 0, "chunk_bytes": 2**20},
}
RUN = """
import json, sys, pcrstore
if __name__ == "__main__":
    options = pcrstore.Options(**json.loads(sys.argv[3]))
    pcrstore.convert(sys.argv[1], sys.argv[2], options, workers=2)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    files = {f"noise/{i:03}.jpg": encoded(i, (640, 480), quality=95) for i in range(N_IMAGES)}
    return write_sources(tmp_path_factory.mktemp("source"), files)


def command_of(tmp_path, source, target, way):
    script = tmp_path / "run.py"  # a file: spawned workers import the main module
    script.write_text(RUN)
    options = {**WAYS[way], "record_bytes": 2**20, "object_bytes": OBJECT_BYTES}
    return [sys.executable, str(script), str(source), str(target), json.dumps(options)]


class Watcher(threading.Thread):
    """Opens a dataset in a loop and counts what it sees: nothing, all, or something else."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target = target
        self.seen = Counter()
        self.ended = threading.Event()

    def run(self):
        pick = random.Random(0)
        while not self.ended.is_set():
            self.seen[self.look(pick)] += 1
            time.sleep(0.01)
        self.seen[self.look(pick)] += 1

    def look(self, pick):
        try:
            ds = pcrstore.open(self.target)
            whole = len(ds) == N_IMAGES and all(ds.fetch(pick.sample(range(N_IMAGES), 3), "full"))
        except pcrstore.PcrstoreError as e:
            # A manifest whose objects are missing is a half; no manifest is nothing.
            return "nothing" if "no manifest" in str(e) else f"half: {e}"
        return "all" if whole else "half"


def contents(target):
    """Return every object but manifests."""
    store = open_store(str(target))
    return {
        e.name: store.get(e.name, max_bytes=e.n_bytes)
        for e in store.list("")
        if "manifests/" not in e.name
    }


def kill_at(command, target, n_units, moment):
    """Run a command until some units are noted and a moment later; say whether it was alive."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while len([*target.glob("staging/*/*/unit-*")]) < n_units and process.poll() is None:
        time.sleep(0.001)
    time.sleep(moment)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_conversion_goes_on_to_the_same_bytes(tmp_path, source, scaled, way):
    whole = tmp_path / "whole"
    start = time.monotonic()
    subprocess.run(command_of(tmp_path, source, whole, way), check=True)
    took = time.monotonic() - start
    expected, manifest = contents(whole), read_manifest(open_store(str(whole)), 1)
    n_units = sum(p.stat().st_size for p in source.rglob("*.jpg")) // OBJECT_BYTES
    assert n_units > 2
    pick, n_alive = random.Random(0), 0
    for i in range(max(2, scaled(KILLS))):
        anywhere = (0, pick.uniform(0.0, took))
        after_a_unit = (pick.randint(1, n_units), pick.uniform(0.0, 0.05))
        target = tmp_path / f"killed-{i}"
        command = command_of(tmp_path, source, target, way)
        watcher = Watcher(target)
        watcher.start()
        n_alive += kill_at(command, target, *(after_a_unit if i % 2 else anywhere))
        was_committed = any(Path(target, "manifests").glob("*.pcrm"))
        subprocess.run(command, check=True)
        watcher.ended.set()
        watcher.join()
        assert watcher.seen.keys() <= {"nothing", "all"}
        assert watcher.seen["all"], f"committed before it was killed: {was_committed}"
        assert contents(target) == expected
        assert read_manifest(open_store(str(target)), 1).same_content(manifest)
    assert n_alive >= (i + 1) // 2, "it was over before it was killed"
