"""Exit codes hold on a busy machine, where a thread of obstore's may be late: many short programs.

Each case goes on for a minute. tests/storage/test_exits.py makes the same things happen once, for
certain.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import pcrstore

pytestmark = pytest.mark.soak

REPOSITORY = Path(pcrstore.__file__).parents[1]
SECONDS = 60
STORE = """
import json, os, sys
from pcrstore.core.ranges import ByteRange
from pcrstore.storage.open import open_store
store = open_store(sys.argv[1], json.loads(sys.argv[2]), engine="obstore")
store.put("a", b"0123456789" * 1000)
store.get_ranges([ByteRange("a", i, i + 5) for i in range(20)])
"""
PROGRAMS = {
    "end": (f"{STORE}store.get('a', max_bytes=1000)", 0),
    "exit": (f"{STORE}store.list('')\nsys.exit(3)", 3),
    "error": (f"{STORE}store.delete(['a'])\nraise ValueError", 1),
    "fork": (f"{STORE}pid = os.fork()\nsys.exit(os.waitpid(pid, 0)[1] >> 8 if pid else 4)", 4),
}


@pytest.fixture
def busy():
    """Keep all cores busy, with one process more than there are."""
    spinning = [sys.executable, "-c", "while True: sum(range(10**6))"]
    processes = [subprocess.Popen(spinning) for _ in range((os.cpu_count() or 1) + 1)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def exit_codes(seconds, program, *words):
    """Run a program again and again; return the exit codes that it ended with."""
    codes = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", *program, *words],
            cwd=REPOSITORY,
            capture_output=True,
            timeout=300,
            check=False,
        )
        codes[result.returncode] += 1
    print(sum(codes.values()), "runs:", dict(codes))  # noqa: T201 (pytest -s shows it)
    return set(codes)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("ending", PROGRAMS)
def test_a_program_ends_with_its_own_exit_code(s3_server, scaled, ending):
    text, expected = PROGRAMS[ending]
    codes = exit_codes(scaled(SECONDS), ["-c", text], s3_server.url, json.dumps(s3_server.options))
    assert codes == {expected}


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(("folder", "expected"), [("none", 2), ("ds", 0)])
def test_a_command_ends_with_the_documented_exit_code(
    s3_server, tmp_path, scaled, folder, expected
):
    (tmp_path / "cat").mkdir()
    for i in range(4):
        Image.effect_noise((64, 48), 60).save(tmp_path / "cat" / f"{i}.jpg")
    pcrstore.convert(tmp_path, s3_server.url, destination_options=s3_server.options, workers=1)
    options = "--storage-options", json.dumps(s3_server.options)
    url = s3_server.url.removesuffix("ds") + folder
    command = ["-m", "pcrstore"], "info", url, *options
    assert exit_codes(scaled(SECONDS), *command) == {expected}
