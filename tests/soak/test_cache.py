"""Many processes share a cache that is too small, through kill -9 and damage.

Eight processes read a thousand random ranges each from a cache that holds half of the data, as a
reader does: get, check the CRC32C, discard and put again what is damaged or absent. Two of them are
killed with SIGKILL at a random moment, and meanwhile twenty bytes in files of the cache are
changed. That is one round; the cache stays for all of them. No read may return other bytes, no
process may fail, and while the lock is held (so that nothing changes) what lies in the folder must
be within the limit and within the count. Afterwards a process that fills the cache must find no
leftover of the killed.
"""

import fcntl
import json
import multiprocessing
import os
import random
import time

import google_crc32c
import numpy as np
import pytest

from pcrstore.core import ByteRange
from pcrstore.storage.cache.cache import Cache
from pcrstore.storage.cache.files import files
from pcrstore.storage.cache.ledger import MARKER, read_state

pytestmark = [
    pytest.mark.soak,
    # Since Python 3.12: this process has threads of other tests; the children use none of them.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

ROUNDS = 50
READERS = 8
READS = 1000
KILLS = 2
DAMAGES = 20
"""Bytes changed in a round."""
N_BODIES = 300


@pytest.fixture(scope="module")
def bodies():
    """Random bodies of 10 to 400 kB by their ranges, with their checksums."""
    pick = np.random.default_rng(0)
    sizes = np.exp(pick.uniform(np.log(1e4), np.log(4e5), N_BODIES)).astype(int).tolist()
    made = [pick.bytes(size) for size in sizes]
    ranges = [ByteRange(f"objects/{i:04}", 100, 100 + size) for i, size in enumerate(sizes)]
    return [(r, body, google_crc32c.value(body)) for r, body in zip(ranges, made, strict=True)]


def read(dataset, body_of_range, tally):
    """Read one body as a reader does."""
    wanted, expected, checksum = body_of_range
    body = dataset.get(wanted)
    if body is not None and google_crc32c.value(body) != checksum:
        dataset.discard(wanted)
        tally["damaged"] += 1
        body = None
    if body is None:
        dataset.put(wanted, expected)
    else:
        tally["wrong"] += body != expected


def reader(cache, bodies, seed, result):
    """Read random bodies; write down what happened."""
    tally, pick = {"damaged": 0, "wrong": 0}, random.Random(seed)
    dataset = cache.of("s3://bucket/photos")
    for _ in range(READS):
        read(dataset, pick.choice(bodies), tally)
    result.write_text(json.dumps(tally))


def assert_within_the_limit(folder, limit):
    """Count what lies in the folder while nobody may change it."""
    with (folder / MARKER).open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        there = sum(file.n_bytes for file in files(folder))
        state = read_state(folder)
    assert there <= limit
    assert state is None or there <= state.used


def damage(folder, pick):
    """Change a byte of a random body, which may go meanwhile."""
    found = [file for file in files(folder) if file.is_body]
    if not found:
        return
    chosen = pick.choice(found)
    try:
        file = os.open(chosen.path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        at = pick.randrange(chosen.n_bytes)
        byte = os.pread(file, 1, at)
        os.pwrite(file, bytes([byte[0] ^ (1 + pick.randrange(255))]), at)
    finally:
        os.close(file)


def one_round(cache, limit, bodies, results, seed, guess):
    """Run a round of about `guess` seconds; return its seconds and the tallies of the living."""
    fork, pick, folder = multiprocessing.get_context("fork"), random.Random(seed), cache.folder.path
    paths = [results / f"{seed}-{p}.json" for p in range(READERS)]
    running = [
        fork.Process(target=reader, args=(cache, bodies, 1000 * seed + p, path))
        for p, path in enumerate(paths)
    ]
    start = time.perf_counter()
    for process in running:
        process.start()
    victims = running[:KILLS]
    events = [victim.kill for victim in victims] + [lambda: damage(folder, pick)] * DAMAGES
    moments = sorted(pick.uniform(0, guess) for _ in events)
    for moment, event in zip(moments, pick.sample(events, len(events)), strict=True):
        time.sleep(max(0.0, start + moment - time.perf_counter()))
        event()
        if event in [victim.kill for victim in victims]:
            assert_within_the_limit(folder, limit)
    for process in running:
        process.join(120)
    seconds = time.perf_counter() - start
    assert_within_the_limit(folder, limit)
    assert {process.exitcode for process in running[KILLS:]} == {0}
    assert {process.exitcode for process in victims} <= {0, -9}
    return seconds, [json.loads(path.read_text()) for path in paths if path.exists()]


def test_processes_share_a_cache_through_kills_and_damage(tmp_path, scaled, bodies):
    folder, limit = tmp_path / "cache", sum(len(body) for _, body, _ in bodies) // 2
    cache = Cache(folder, limit=limit)
    seconds, n_damaged = 1.0, 0
    for seed in range(scaled(ROUNDS)):
        seconds, tallies = one_round(cache, limit, bodies, tmp_path, seed, seconds)
        assert sum(tally["wrong"] for tally in tallies) == 0
        n_damaged += sum(tally["damaged"] for tally in tallies)
    assert n_damaged > 0, "no damage was met"
    tally = {"damaged": 0, "wrong": 0}
    for body in bodies * 2:
        read(cache.of("s3://bucket/photos"), body, tally)
    assert tally["wrong"] == 0
    assert [file.path for file in files(folder) if not file.is_body] == []
    assert read_state(folder).used == sum(file.n_bytes for file in files(folder))
