"""The programs in examples/ run as their docstrings say."""

import subprocess
import sys
from pathlib import Path

import pytest
from flows import photo, write_tree

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = {f"{name}/{i}.jpg": photo(i) for i, name in enumerate(("cat", "dog", "cat", "dog"))}


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_both_examples_run_one_after_the_other(tmp_path):
    write_tree(tmp_path / "photos", PHOTOS)
    (tmp_path / "photos" / "notes.txt").write_text("not a photo")
    done = run("convert_and_read.py", tmp_path / "photos", tmp_path / "dataset")
    assert done.returncode == 0, done.stderr
    assert "skipped: notes.txt" in done.stdout
    assert "fidelity 5: 4 images by 1 requests" in done.stdout
    done = run("zarr_view.py", tmp_path / "dataset")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fidelity") == 5


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_every_example_says_how_to_call_it(name):
    done = run(name)
    assert done.returncode == 1
    assert f"python examples/{name}" in done.stderr
