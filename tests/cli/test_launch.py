"""An interrupt of the command line is one line and exit code 130, also while it starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pcrstore

REPOSITORY = Path(pcrstore.__file__).parents[1]
INTERRUPTED = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
CONSOLE_SCRIPT = "import sys; from pcrstore.__main__ import main; sys.exit(main())"
"""As pip writes it."""


@pytest.fixture(autouse=True)
def _interrupts_arrive():
    """Undo what a shell does to what it puts into the background; children inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["google_crc32c", "numpy", "fsspec", "PIL", "click"])
def interrupted(request, tmp_path):
    """Variables with which the import of a library is interrupted."""
    (tmp_path / f"{request.param}.py").write_text(INTERRUPTED)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}


def run(*words, env):
    return subprocess.run(
        [sys.executable, *words],
        env=env,
        cwd=REPOSITORY.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("way", ["module", "script"])
def test_an_interrupt_at_the_start_is_one_line(interrupted, tmp_path, way):
    script = tmp_path / "bin" / "pcrstore"
    script.parent.mkdir()
    script.write_text(CONSOLE_SCRIPT)
    words = ["-m", "pcrstore"] if way == "module" else [str(script)]
    result = run(*words, "ls", "--json", "/nowhere", env=interrupted)
    assert (result.returncode, result.stderr) == (130, "pcrstore: interrupted\n")


def test_an_interrupt_of_a_program_that_imports_pcrstore_is_its_own(interrupted):
    code = "import pcrstore.cli.info"
    result = run("-c", code, "pcrstore", env=interrupted)
    assert result.returncode == -signal.SIGINT
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    (tmp_path / "click.py").write_text(INTERRUPTED.replace("time.sleep(20)", "raise SystemExit(7)"))
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run("-m", "pcrstore", "--help", env=env).returncode == 7
