"""Two ranks of accelerate, by gloo on CPUs: each sample of an epoch is read once by one of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch_data import N, converted

TESTS = Path(__file__).parents[2]

SCRIPT = """
import json, sys, zlib
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import distributed
from torch.utils.data import DataLoader
from pcrstore.torch import IterableDataset, Loader

kind, url = sys.argv[1:]
accelerator = Accelerator(cpu=True)
rank, world_size = accelerator.process_index, accelerator.num_processes

def single(workers=0, **options):
    ds = IterableDataset(url, size=16, shuffle=False, **options)
    return DataLoader(ds, 4, num_workers=workers)

def prepared(loader, **options):
    accelerator.dataloader_config = DataLoaderConfiguration(**options)
    return accelerator.prepare(loader)

loader = {
    "loader": lambda: accelerator.prepare(Loader(url, 4, size=16, shuffle=False)),
    "loader-with-workers": lambda: accelerator.prepare(
        Loader(url, 4, size=16, shuffle=False, num_workers=1)
    ),
    "dispatched": lambda: prepared(single(rank=0, world_size=1)),
    "each-its-own": lambda: prepared(single(rank=0, world_size=1), dispatch_batches=False),
    "not-prepared": lambda: single(rank=rank, world_size=world_size),
    "twice": lambda: prepared(single()),
    "twice-each-its-own": lambda: prepared(single(), dispatch_batches=False),
    "twice-with-workers": lambda: prepared(single(workers=1), dispatch_batches=False),
}[kind]()
seen = []
for epoch in range(2):
    images = [image.numpy().tobytes() for batch in loader for image in batch[0]]
    seen.append([epoch, [zlib.crc32(image) for image in images]])
# A file for each rank: lines that both print to one pipe may come mixed.
open(f"{rank}.json", "w").write(json.dumps(seen))
accelerator.wait_for_everyone()
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 40 images."""
    return converted(tmp_path_factory.mktemp("accelerate"))


def run(folder, kind, url):
    """Return what two ranks said."""
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-port", str(port), "script.py", kind, url),
    ]
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    "kind", ["loader", "loader-with-workers", "dispatched", "each-its-own", "not-prepared"]
)
def test_the_ranks_read_an_epoch_between_them(tmp_path, url, kind):
    done = run(tmp_path, kind, url)
    assert done.returncode == 0, done.stderr
    rows = [row for rank in range(2) for row in json.loads((tmp_path / f"{rank}.json").read_text())]
    for epoch in range(2):
        shares = [images for e, images in rows if e == epoch]
        assert [len(images) for images in shares] == [N // 2, N // 2]
        assert len({image for images in shares for image in images}) == N


@pytest.mark.parametrize("kind", ["twice", "twice-each-its-own", "twice-with-workers"])
def test_an_epoch_that_would_be_split_twice_is_refused(tmp_path, url, kind):
    done = run(tmp_path, kind, url)
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.json"))
    assert "each rank would read a part of its part. Use pcrstore.torch.Loader" in done.stderr
