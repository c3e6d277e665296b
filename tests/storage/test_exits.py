"""Programs that read through obstore end with their own exit code, whatever obstore does then.

Each case is a program in a process of its own. `Lingering` holds the interpreter up while it ends,
after the exit handlers: a thread of obstore's that asks for the GIL in that second dies, and its
process with it (SIGABRT). On a busy machine the same happens without help, now and then: see
tests/soak/test_exits.py.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_s3 import ScriptedS3

import pcrstore

pytest.importorskip("obstore")

BODY = bytes(range(250))
PROLOGUE = """
import atexit, os, signal, sys, threading, time

class Lingering:
    write, sleep = os.write, time.sleep

    def __del__(self):
        self.write(1, b"ending\\n")
        self.sleep(1)

sys.modules["lingering"] = Lingering()  # let go when the interpreter clears the modules
{before}
from fsspec.asyn import get_loop
from pcrstore.core.ranges import ByteRange
from pcrstore.storage.open import open_store

signal.signal(signal.SIGINT, signal.default_int_handler)
options = {{"endpoint_url": sys.argv[1], "client_kwargs": {{"region_name": "us-east-1"}}}}
store = open_store("s3://bkt/ds", options, engine="obstore")
"""

SLOW_WAKE_UP = """
loop = get_loop()
wake_up = loop.call_soon_threadsafe

def slowly(*args, **kwargs):
    handle = wake_up(*args, **kwargs)
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.3)  # as long as the write to the loop's socket may take on a busy machine
    return handle

loop.call_soon_threadsafe = slowly
"""
"""Let a thread of obstore's stay in the loop's method after the result is there."""

CALLS = {
    "get": "store.get('a', max_bytes=1000)",
    "get_ranges": "store.get_ranges([ByteRange('a', 0, 10), ByteRange('a', 7, 20)])",
    "put": "store.put('b', b'1' * 100_000)",
    "create": "store.create('b', b'1')",
    "missing": "\ntry:\n    store.get('none', max_bytes=1000)\nexcept OSError:\n    pass",
}

ENDINGS = {
    "end": ("", 0),
    "exit": ("sys.exit(3)", 3),
    "error": ("raise ValueError('mine')", 1),
    "interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -signal.SIGINT),
    "fork": ("pid = os.fork()\nif not pid: sys.exit(4)\nsys.exit(os.waitpid(pid, 0)[1] >> 8)", 4),
}


@pytest.fixture
def server():
    server = ScriptedS3()
    server.objects["/bkt/ds/a"] = BODY
    yield server
    server.close()


def started(server, text, before=""):
    program = PROLOGUE.format(before=before) + text
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, server.endpoint],
        cwd=Path(pcrstore.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )


def ended(process):
    """Return exit code and both outputs."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize("call", CALLS)
def test_a_thread_that_delivered_its_result_is_out_of_python_at_the_end(server, call):
    code, out, err = ended(started(server, f"{SLOW_WAKE_UP}{CALLS[call]}\nprint('done')"))
    assert (code, out, err) == (0, "done\nending\n", "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_with_its_own_exit_code(server, ending):
    text, expected = ENDINGS[ending]
    code, out, err = ended(started(server, f"{SLOW_WAKE_UP}{CALLS['get']}\n{text}"))
    assert code == expected
    assert "ending" in out
    quiet = ending not in {"error", "interrupt"}
    assert err == "" if quiet else err.startswith("Traceback")


UNDER_WAY = """
threading.Thread(target=lambda: {call}, daemon=True).start()
sys.stdin.readline()
{ending}
"""


@pytest.mark.parametrize("ending", ["end", "exit", "error"])
@pytest.mark.parametrize("call", ["get", "get_ranges", "put"])
def test_a_request_under_way_is_cut_off_at_the_end(server, call, ending):
    """Its answer comes while the interpreter ends."""
    server.then = "late"
    text, expected = ENDINGS[ending]
    process = started(server, UNDER_WAY.format(call=CALLS[call], ending=text))
    assert server.asked.wait(30)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ending\n"
    server.released.set()
    code, _, err = ended(process)
    assert code == expected
    assert "thread" not in err
    assert (err == "") == (ending != "error")


READING_ON = """
def read():
    while True:
        store.get("a", max_bytes=1000)
        read_once.set()

read_once = threading.Event()
threading.Thread(target=read, daemon=True).start()
read_once.wait()
"""


def test_a_daemon_thread_that_reads_on_ends_without_a_word(server):
    code, out, err = ended(started(server, READING_ON))
    assert (code, out, err) == (0, "ending\n", "")


def test_an_exit_handler_may_read_whenever_it_was_registered(server):
    before = "atexit.register(lambda: print(store.get('a', max_bytes=1000)[:3], flush=True))"
    after = f"{SLOW_WAKE_UP}{CALLS['get']}\n{before}"
    code, out, err = ended(started(server, after, before=before))
    assert (code, out, err) == (0, f"{BODY[:3]}\n" * 2 + "ending\n", "")
