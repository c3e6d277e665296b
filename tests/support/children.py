"""Work in a forked child of the test's process."""

import os
import signal
import time
import warnings

import pytest


def in_child(work):
    """Return what `work` returned in a forked child, as text; fail if it takes over 20 s."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns that this process has threads; that is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(work()).encode())
        except BaseException as e:  # noqa: BLE001 (the parent shows it)
            os.write(write, f"failed: {e!r}".encode())
        finally:
            os._exit(0)
    os.close(write)
    deadline = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(read)
            pytest.fail("the forked child hangs")
        time.sleep(0.02)
    with os.fdopen(read) as pipe:
        return pipe.read()
