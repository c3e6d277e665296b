"""Worker processes start and read everything, whatever their parent did before.

A loader with two workers reads an epoch, again and again: started by fork, spawn and forkserver,
through fsspec (s3fs) and obstore, by a parent that made the loader from a URL and by one that had
read through the engine before. After a fork obstore hangs, so a forked child whose parent used it
must read through fsspec and say so once; nobody else has anything to say.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from small_sources import encoded, write_sources

import pcrstore
from pcrstore import Options

pytestmark = pytest.mark.soak

pytest.importorskip("torch")

RUNS = 50
RUNS_OF_A_PARENT = 10
"""Epochs of one parent, each with new workers."""
HANGS = 60
"""Seconds after which an epoch of a parent hangs, on average of its epochs."""
N_IMAGES = 48
N_WORKERS = 2
RUN = """
import json, sys
import pcrstore
from pcrstore.torch import Loader

def epoch(url, options, method, engine, has_read, n_workers):
    dataset = url
    if has_read:
        dataset, options = pcrstore.open(url, options, engine=engine), None
        dataset.read([0], 1)
        engine = "auto"
    loader = Loader(
        dataset, 4, fidelity=1, size=16, num_workers=n_workers, positions=True,
        multiprocessing_context=method, engine=engine, storage_options=options,
    )
    return [p for *_, positions in loader for p in positions.tolist()]

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    for _ in range(asked.pop("runs")):
        print(json.dumps(epoch(**asked)), flush=True)
"""


def epochs_of(script, asked):
    """Return the epochs that a new process read, and its warnings of a forked obstore."""
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONWARNINGS": "always::RuntimeWarning"},
    )
    try:
        out, err = process.communicate(timeout=HANGS * asked["runs"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it hung after {len(out.splitlines())} epochs: {err}")
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()], err.count("ForkedObstoreWarning: ")


@pytest.mark.parametrize("has_read", [False, True], ids=["made", "had-read"])
@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_read_every_sample_once(s3_server, tmp_path, scaled, method, engine, has_read):
    pytest.importorskip({"fsspec": "s3fs"}.get(engine, engine))
    files = {f"noise/{i:02}.jpg": encoded(i, (32, 32)) for i in range(N_IMAGES)}
    source = write_sources(tmp_path / "source", files)
    options = Options(record_images=4)
    pcrstore.convert(
        source, s3_server.url, options, destination_options=s3_server.options, workers=1
    )
    script = tmp_path / "run.py"
    script.write_text(RUN)
    asked = {"url": s3_server.url, "options": s3_server.options, "n_workers": N_WORKERS}
    asked |= {"method": method, "engine": engine, "has_read": has_read}
    left = scaled(RUNS)
    while left > 0:
        runs = min(RUNS_OF_A_PARENT, left)
        epochs, n_warnings = epochs_of(script, {**asked, "runs": runs})
        assert [sorted(epoch) for epoch in epochs] == [[*range(N_IMAGES)]] * runs
        is_poisoned = method == "fork" and engine == "obstore" and has_read
        assert n_warnings == (N_WORKERS * runs if is_poisoned else 0)
        left -= runs
