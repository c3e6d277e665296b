"""Which rank a process is, its share of the threads, and two ranks that are not told."""

import json
import os
import subprocess
import sys

import pytest

from pcrstore import OptionError
from pcrstore.concurrency.processes import usable_cores

torch = pytest.importorskip("torch")

from torch import distributed  # noqa: E402 - only where torch is installed
from torch_data import N, converted  # noqa: E402

from pcrstore.torch import Loader  # noqa: E402 - only where torch is installed
from pcrstore.torch import distributed as settings  # noqa: E402 - as above
from pcrstore.torch.distributed import local_world_size, ranks, threads_of  # noqa: E402 - as above

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    return converted(tmp_path_factory.mktemp("torch"))


@pytest.fixture
def environment(monkeypatch):
    """Set the variables given and no other of torchrun's."""

    def apply(**variables):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    apply()
    return apply


@pytest.fixture
def initialised(monkeypatch):
    """Let torch.distributed be rank 2 of 3."""
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)


def test_alone_it_is_rank_0_of_1(environment):
    environment()
    assert ranks(None, None) == (0, 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RANK": "4", "WORLD_SIZE": "5"}, (4, 5)),
        ({"WORLD_SIZE": "5"}, (0, 5)),
        ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)),
    ],
)
def test_the_environment_says_so(environment, variables, expected):
    environment(**variables)
    assert ranks(None, None) == expected


def test_distributed_goes_before_the_environment(environment, initialised):  # noqa: ARG001
    environment(RANK="4", WORLD_SIZE="5")
    assert ranks(None, None) == (2, 3)


def test_arguments_go_before_all(environment, initialised):  # noqa: ARG001
    environment(RANK="4", WORLD_SIZE="5")
    assert ranks(6, 7) == (6, 7)
    assert ranks(0, 1) == (0, 1)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK .*'one'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK"),
        ({"RANK": "1.0", "WORLD_SIZE": "2"}, "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "rank must be in 0..1, got 2"),
        ({"RANK": "1"}, "rank must be in 0..0, got 1"),
        ({"WORLD_SIZE": "0"}, "world_size"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE .*'many'"),
    ],
)
def test_wrong_variables_are_named(environment, url, variables, said):
    environment(**variables)
    with pytest.raises(OptionError, match=said):
        ranks(None, None)
    with pytest.raises(OptionError, match=said):
        Loader(url)
    assert Loader(url, rank=0, world_size=1).epoch == 0


@pytest.mark.parametrize(
    ("rank", "world_size"), [(0, None), (None, 1), (1, 1), (-1, 1), (0, 0), (True, 2), (0.0, 1)]
)
def test_wrong_arguments_are_refused(environment, rank, world_size):
    environment()
    with pytest.raises(OptionError):
        ranks(rank, world_size)


@pytest.mark.parametrize(
    ("variables", "world_size", "expected"),
    [
        ({}, 6, 1),
        ({"LOCAL_WORLD_SIZE": "4"}, 8, 4),
        ({"LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}, 8, 4),
        ({"LOCAL_WORLD_SIZE": "0"}, 8, 1),
        ({"MASTER_ADDR": "localhost"}, 8, 8),
        ({"MASTER_ADDR": "127.0.0.1"}, 8, 8),
        ({"MASTER_ADDR": "::1"}, 8, 8),
        ({"MASTER_ADDR": "10.0.0.1"}, 8, 1),
        ({"MASTER_ADDR": ""}, 8, 1),
    ],
)
def test_ranks_of_this_host(environment, variables, world_size, expected):
    environment(**variables)
    assert local_world_size(world_size) == expected


@pytest.mark.parametrize(
    ("cores", "n_ranks", "n_processes", "expected"),
    [(1, 1, 1, 1), (16, 1, 1, 16), (16, 4, 1, 4), (16, 4, 2, 2), (16, 4, 5, 1), (15, 2, 2, 3)],
)
def test_cores_are_shared_among_ranks_and_workers(
    environment, monkeypatch, cores, n_ranks, n_processes, expected
):
    monkeypatch.setattr(settings, "usable_cores", lambda: cores)
    environment(LOCAL_WORLD_SIZE=str(n_ranks))
    assert threads_of(None, 64, n_processes) == expected
    assert threads_of(7, 64, n_processes) == 7


def test_wrong_thread_counts_are_refused(environment):
    for n in (0, -1, "2", 2.0, True):
        with pytest.raises(OptionError, match="n_threads"):
            threads_of(n, 1, 1)
    environment(LOCAL_WORLD_SIZE="a few")
    with pytest.raises(OptionError, match="LOCAL_WORLD_SIZE"):
        threads_of(None, 1, 1)


def test_a_loader_takes_its_share_of_the_threads(environment, url, monkeypatch):
    monkeypatch.setattr(settings, "usable_cores", lambda: 12)
    environment(LOCAL_WORLD_SIZE="3", RANK="1", WORLD_SIZE="6")
    loader = Loader(url, 4, size=16)
    next(batches := iter(loader))
    assert loader._stream._n_threads == 4
    batches.close()
    assert usable_cores() >= 1


@pytest.mark.parametrize("env", [{"RANK": "1", "WORLD_SIZE": "4"}, {}])
def test_rank_is_looked_at_when_an_iteration_begins(environment, url, env):
    """A process group may be made after the loader."""
    environment()
    loader = Loader(url, 4, size=16, positions=True)
    assert len(loader) == N // 4
    environment(**env)
    n = N // int(env.get("WORLD_SIZE", 1))
    assert sum(len(y) for _, y, _ in loader) == n


# Two ranks, each a process, that find each other by a file and are told nothing else.
RANK = """
import json, os, pickle, sys
import torch
from torch import distributed
from torch.utils.data import DataLoader
from pcrstore.torch import IterableDataset, Loader

def main(rank, meeting, url):
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    # As if they came from a process that takes no part.
    ds = IterableDataset(url, size=16, transform=fingerprint)
    loader = Loader(url, 4, size=16, positions=True)
    sent, sent_ds = pickle.loads(pickle.dumps((loader, ds)))
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    def loader(num_workers):
        return Loader(url, 4, size=16, num_workers=num_workers, positions=True, seed=3)
    def read(batches):
        return [p for *_, positions in batches for p in positions.tolist()]
    out = {}
    for num_workers in (0, 2):
        first = loader(num_workers)
        first.set_epoch(1)
        out[f"whole {num_workers}"] = read(first)
        second = loader(num_workers)
        second.set_epoch(1)
        some = read(batch for _, batch in zip(range(3), second))
        third = loader(2 - num_workers)
        third.load_state_dict(second.state_dict())
        distributed.barrier()
        out[f"resumed {num_workers}"] = some + read(third)
        out[f"states {num_workers}"] = second.state_dict()
    out["sent"] = read(sent)
    ds = IterableDataset(url, size=16, transform=fingerprint)
    for method in ("fork", "spawn"):
        for kind, each in ((method, ds), (f"sent {method}", sent_ds)):
            each.set_epoch(0)
            workers = DataLoader(each, 4, num_workers=1, multiprocessing_context=method)
            out[kind] = [x for hashes, _ in workers for x in hashes.tolist()]
    ds = IterableDataset(url, size=16, transform=fingerprint, rank=0, world_size=1)
    out["all"] = [fingerprint for fingerprint, _ in ds]
    distributed.destroy_process_group()
    print(json.dumps(out))

def fingerprint(image):
    return hash(image.numpy().tobytes())

if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
"""


@pytest.mark.slow
def test_two_ranks_read_halves_without_being_told(url, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    runs = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting"), url],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        one, two = (json.loads(run.communicate(timeout=100)[0]) for run in runs)
    finally:
        for run in runs:
            run.kill()
    for kind in ("whole 0", "whole 2", "resumed 0", "resumed 2", "sent"):
        assert len(one[kind]) == len(two[kind]) == N // 2
        assert sorted(one[kind] + two[kind]) == list(range(N))
    assert one["states 0"] == two["states 0"]
    assert one["states 2"] == two["states 2"]
    for kind in ("fork", "spawn", "sent fork", "sent spawn"):
        assert len(one[kind]) == len(two[kind]) == N // 2
        assert sorted(one[kind] + two[kind]) == sorted(one["all"])
