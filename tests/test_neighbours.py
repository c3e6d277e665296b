"""`scripts/test --neighbours`: what is installed, what is said, and what fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# In place of an environment's interpreter.
echo "$@" >>"$(dirname "$0")/calls"
case "$*" in *pip*) exit {pip} ;; *pytest*) exit {pytest} ;; esac
"""

SETUP = """#!/bin/sh
[ "$(command -v python)" = "$NEIGHBOUR_DIR/bin/python" ] && echo set up >"$NEIGHBOUR_DIR/done"
"""


@pytest.fixture
def clone(tmp_path):
    """The scripts, and three neighbours of which one passes, one fails, one cannot be installed."""
    for name in ("scripts", "pyproject.toml", "setup.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for name, pip, tests in (("absent", 1, 0), ("bad", 0, 1), ("good", 0, 0)):
        folder, bin_ = (
            tmp_path / "tests/neighbours" / name,
            tmp_path / f".venv-neighbours/{name}/bin",
        )
        for made, text in (
            (folder / "requirements.txt", ""),
            (folder / "setup", SETUP),
            (bin_ / "python", PYTHON.format(pip=pip, pytest=tests)),
        ):
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(text)
            made.chmod(0o755)
    return tmp_path


def run(clone, *names):
    """Return exit status and the closing lines."""
    environment = {**os.environ, "PCRSTORE_VENV": sys.prefix}
    done = subprocess.run(
        [clone / "scripts/test", "--neighbours", *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("neighbour ")]
    return done.returncode, [x.removeprefix("neighbour ") for x in lines]


ABSENT = "absent: left out, it could not be installed"


@pytest.mark.parametrize(
    ("names", "status", "said"),
    [
        ((), 1, [ABSENT, "bad: failed", "good: passed"]),
        (("good",), 0, ["good: passed"]),
        (("absent", "good"), 0, [ABSENT, "good: passed"]),
        (("--strict", "absent", "good"), 1, [ABSENT, "good: passed"]),
        (("nobody",), 2, []),
    ],
    ids=["all", "one", "left-out", "strict", "unknown"],
)
def test_a_neighbour_that_fails_fails_the_run_and_one_left_out_where_that_is_asked(
    clone, names, status, said
):
    assert run(clone, *names) == (status, said)


def test_what_is_installed_stays_until_what_it_needs_changes(clone):
    folder = clone / ".venv-neighbours/good"
    calls = folder / "bin/calls"
    for requirements, n_pip in (("", 2), ("", 2), ("torch", 4)):
        (clone / "tests/neighbours/good/requirements.txt").write_text(requirements)
        assert run(clone, "good") == (0, ["good: passed"])
        assert sum("-m pip install" in call for call in calls.read_text().splitlines()) == n_pip
    assert (folder / "done").read_text() == "set up\n"
