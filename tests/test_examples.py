"""The programs in examples/ run as their docstrings say."""

import io
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from flows import photo, write_tree
from PIL import Image

import pcrstore

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTOS = {f"{name}/{i}.jpg": photo(i) for i, name in enumerate(("cat", "dog", "cat", "dog"))}
NEEDS = {
    "train_torch.py": ("torch", "moto", "boto3"),
    "train_ddp.py": ("torch",),
    "resume.py": ("torch",),
    "feed_jax.py": ("jax",),
    "feed_tensorflow.py": ("tensorflow",),
}


def run(name, *arguments):
    for library in NEEDS.get(name, ()):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
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


def plain(seed):
    """A JPEG in a colour of its class (seed is even or odd), with grain."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (48, 64, 3))
    pixels[..., seed % 2] += 150
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of two classes that are easily told apart, in split folders."""
    names = {i: f"{'train' if i < 96 else 'validation'}/{i % 2}/{i:03d}.jpg" for i in range(128)}
    root = tmp_path_factory.mktemp("examples")
    return write_tree(root / "photos", {name: plain(i) for i, name in names.items()})


@pytest.fixture(scope="module")
def url(folder):
    """The same as a dataset."""
    options = pcrstore.Options(split_dirs=True, record_images=10)
    pcrstore.convert(str(folder), str(folder.parent / "dataset"), options, workers=1)
    return str(folder.parent / "dataset")


def losses(done):
    """The losses that were printed, epoch by epoch."""
    assert done.returncode == 0, done.stderr
    return [float(x) for x in re.findall(r"^epoch \d+: loss ([\d.]+)", done.stdout, re.MULTILINE)]


@pytest.mark.slow
def test_training_from_a_bucket_learns(folder):
    done = run("train_torch.py", folder, "4")
    first, *_, last = losses(done)
    assert last < 0.8 * first
    assert "128 images, 2 classes, splits train, validation" in done.stdout
    moved = re.findall(r"; ([\d.]+) MB moved to train, ([\d.]+) MB to validate", done.stdout)
    assert len(moved) == 4
    # 96 images at fidelity 2 are fewer bytes than 32 at full fidelity would be, three times over.
    assert all(0 < float(trained) < 3 * float(tested) for trained, tested in moved)
    assert done.stdout.count("kB/image") == 2


@pytest.mark.slow
def test_two_ranks_share_an_epoch_and_learn(url):
    done = run("train_ddp.py", url, "3")
    first, *_, last = losses(done)
    assert last < first
    wanted = "batches (2, 2), images 64 and 64, 0 in both (0 read twice), 128 in all"
    assert done.stdout.count(wanted) == 3
    assert done.stdout.endswith("both ranks are done\n")


@pytest.mark.slow
def test_a_resumed_epoch_sees_every_image_once(url):
    done = run("resume.py", url)
    assert done.returncode == 0, done.stderr
    assert "2 workers: saw 64 images" in done.stdout
    assert "1 workers: saw 64 images" in done.stdout
    assert done.stdout.endswith("128 images were seen exactly once, 128 in all\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feed_jax.py", "feed_tensorflow.py"])
def test_other_frameworks_learn_from_numpy_batches(name, url):
    done = run(name, url, "6")
    first, *_, last = losses(done)
    assert last < first
    assert "kB/image" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(p.name, marks=[pytest.mark.slow] if p.name in NEEDS else [])
        for p in sorted(EXAMPLES.glob("*.py"))
    ],
)
def test_every_example_says_how_to_call_it(name):
    done = run(name)
    assert done.returncode == 1
    assert f"python examples/{name}" in done.stderr
