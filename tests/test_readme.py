"""Every command and snippet of the README, run as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flows import photo, write_tree

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
INSTALL = "pip install '.[s3,fast]'\n"

FOLDERS = [f"{split}/{name}" for split in ("train", "validation") for name in ("cat", "dog")]
PHOTOS = {f"{name}/{i}.jpg": photo(i) for i, name in enumerate(FOLDERS * 3)}


@pytest.fixture
def reader(tmp_path, s3_server):
    """A folder with photos, an empty bucket of the README's name, and an environment for both."""
    boto3 = pytest.importorskip("boto3")
    write_tree(tmp_path / "photos", PHOTOS)
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="my-bucket")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="my-bucket"):
        for entry in page.get("Contents", ()):
            client.delete_object(Bucket="my-bucket", Key=entry["Key"])
    client.close()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "TMPDIR": str(tmp_path),
        "PCRSTORE_VENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return tmp_path, environment


def run(command, cwd, environment):
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
def test_the_tour_works_from_top_to_bottom(reader):
    folder, environment = reader
    lines = [
        line
        for language, text in BLOCKS
        if language == "console" and not text.startswith("scripts/")
        for line in text.splitlines()
    ]
    assert len(lines) == 5
    for line in lines:
        run(["sh", "-ec", line], folder, environment)
    snippets = "".join(text for language, text in BLOCKS if language == "python")
    code = snippets.replace("file:///tmp", folder.as_uri())
    run([sys.executable, "-W", "error", "-c", code], folder, environment)
    originals = {
        p.relative_to(folder / "originals"): p.read_bytes() for p in files(folder / "originals")
    }
    photos = {p.relative_to(folder / "photos"): p.read_bytes() for p in files(folder / "photos")}
    assert originals == photos


@pytest.mark.slow
def test_the_training_goes_on_where_it_was_stopped(reader):
    """Six images to train on for two epochs, two a batch; the first run dies of its second save."""
    pytest.importorskip("torch")
    folder, environment = reader
    convert = next(text for _, text in BLOCKS if "pcrstore convert" in text)
    run(["sh", "-ec", convert], folder, environment)
    code = next(text for _, text in BLOCKS if "load_state_dict" in text)
    for given, small in (("batch_size=64", "batch_size=2"), ("step % 1000", "step % 1")):
        assert given in code
        code = code.replace(given, small)
    dies = """
import sys, torch
saves, save = [], torch.save
def second(*args):
    save(*args)
    saves.append(args)
    if len(saves) == 2:
        sys.exit(0)
torch.save = second
"""
    seen = "print(train.stats().samples, 'samples')"

    def trained(code):
        done = run([sys.executable, "-W", "error", "-c", code], folder, environment)
        return re.findall(r"^epoch (\d)|^(\d+) samples", done.stdout, re.MULTILINE)

    assert trained(dies + code + seen) == []
    assert trained(code + seen) == [("0", ""), ("1", ""), ("", "8")]
    assert trained(code + seen) == [("", "0")]


def files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.slow
def test_the_demo_script_converts_a_folder(reader):
    folder, environment = reader
    done = run(
        [ROOT / "scripts/demo", folder / "photos", "--output", folder / "s.png"],
        folder,
        environment,
    )
    assert "fidelity" in done.stdout
    assert (folder / "s.png").read_bytes().startswith(b"\x89PNG")


def test_the_test_script_passes_its_arguments_on(reader):
    folder, environment = reader
    done = run(
        [ROOT / "scripts/test", "-q", "--collect-only", "tests/test_readme.py"], folder, environment
    )
    assert "test_the_test_script_passes_its_arguments_on" in done.stdout


def test_every_block_is_run_here():
    """A new kind of block needs a test; the one command that needs a network is pinned."""
    console = [t for language, t in BLOCKS if language == "console"]
    assert [t for t in console if t.startswith("scripts/")] == ["scripts/demo\n", "scripts/test\n"]
    assert [t for language, t in BLOCKS if language not in ("console", "python")] == [INSTALL]


@pytest.mark.parametrize("tool", ["git", "cc", "jpeglib.h"])
def test_a_missing_tool_is_named_with_its_package(tool, tmp_path):
    """The set-up script runs with a PATH that lacks one tool."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("sh", "dirname", "cat", "cksum", "python3", "git", "cc"):
        if name != tool:
            found = subprocess.run(
                ["/bin/sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=True
            )
            real = sys.executable if name == "python3" else found.stdout.strip()
            (binaries / name).symlink_to(real)
    if tool == "jpeglib.h":
        (binaries / "cc").unlink()
        (binaries / "cc").write_text("#!/bin/sh\nexit 1\n")
        (binaries / "cc").chmod(0o755)
    environment = {"PATH": str(binaries), "PCRSTORE_PYTHON": sys.executable}
    done = subprocess.run(
        [ROOT / "scripts/demo"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    package = {"git": "install git", "cc": "install gcc", "jpeglib.h": "install libjpeg-dev"}[tool]
    assert "is missing" in done.stderr
    assert package in done.stderr
