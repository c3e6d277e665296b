"""Workers start in every way, whatever their parent did before, and read everything."""

import json
import os
import subprocess
import sys

import pytest
from flows import write_tree

import pcrstore
from pcrstore import NumpyLoader

pytest.importorskip("torch")
pytest.importorskip("s3fs")
pytest.importorskip("obstore")

from torch_data import FILES, OPTIONS, N

pytestmark = pytest.mark.slow

N_WORKERS = 2
RUNS = {"fork": 3, "spawn": 1, "forkserver": 1}
"""Of each kind: a spawned worker imports torch, seconds each."""

SCRIPT = """
import json, sys
import pcrstore
from pcrstore.torch import Loader

def run(url, options, method, engine, has_read):
    dataset = url
    if has_read:
        dataset = pcrstore.open(url, options, engine=engine)
        assert dataset.read([0, 5], 2)
    loader = Loader(
        dataset, 4, size=16, num_workers=2, positions=True, multiprocessing_context=method,
        engine="auto" if has_read else engine, storage_options=None if has_read else options,
    )
    epochs = []
    for k in (1, 5):
        loader.fidelity = k
        epochs.append(
            sorted((p, int(x.sum())) for xs, _, ps in loader for x, p in zip(xs, ps.tolist()))
        )
    if has_read:
        assert dataset.read([1, 6], 2)
    return epochs

if __name__ == "__main__":
    url, options, method, runs = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
    # obstore in this process comes last: from then on it is there to be inherited.
    for engine in ("fsspec", "obstore"):
        for has_read in (False, True):
            for _ in range(int(runs)):
                print(json.dumps(run(url, options, method, engine, has_read)), flush=True)
                sys.stderr.write("-- end of a run --\\n")
                sys.stderr.flush()
"""


def expected(server):
    """Return (position, sum of the pixels) of what the script reads, as the NumPy loader has it."""
    loader = NumpyLoader(
        server.url, size=16, positions=True, storage_options=server.options, engine="fsspec"
    )
    epochs = []
    for k in (1, 5):
        loader.fidelity = k
        epochs.append(
            sorted(
                [position, int(image.sum())]
                for images, _, positions in loader
                for image, position in zip(images, positions.tolist(), strict=True)
            )
        )
    assert [len(epoch) for epoch in epochs] == [N, N]
    return epochs


@pytest.mark.parametrize("method", RUNS)
def test_workers_read_everything_whatever_their_parent_did(s3_server, tmp_path, method):
    source = write_tree(tmp_path / "photos", FILES)
    pcrstore.convert(
        str(source), s3_server.url, OPTIONS, destination_options=s3_server.options, workers=1
    )
    script = tmp_path / "start.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            s3_server.url,
            json.dumps(s3_server.options),
            method,
            str(RUNS[method]),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONWARNINGS": "always::RuntimeWarning"},
    )
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line) for line in done.stdout.splitlines()]
    assert epochs == [expected(s3_server)] * 4 * RUNS[method]
    said = done.stderr.split("-- end of a run --\n")
    warned = [text.count("ForkedObstoreWarning: ") for text in said]
    quiet = [0] * 3 * RUNS[method]
    # A fork of a process that has used obstore reads through fsspec, and each says so once.
    assert warned == [*quiet, *[N_WORKERS if method == "fork" else 0] * RUNS[method], 0]
