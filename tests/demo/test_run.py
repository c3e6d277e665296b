import hashlib
import json
import logging
import os
import sys

import pytest
from click.testing import CliRunner
from PIL import Image
from small_sources import broken, encoded, write_sources

import pcrstore
from pcrstore.cli import main
from pcrstore.demo import run as demo_module
from pcrstore.demo import run_demo
from pcrstore.errors import DatasetExistsError, MissingDependencyError, OptionError, StoreError

pytest.importorskip("moto.server")


@pytest.fixture
def photos(tmp_path):
    files = {f"{c}/{i}.jpg": encoded(i, (90, 70)) for i, c in enumerate(["cat", "dog"] * 3)}
    return write_sources(tmp_path / "photos", {**files, "dog/notes.txt": b"no image"})


def test_the_demo_reads_a_folder_at_every_fidelity_and_gives_an_original_back(photos, tmp_path):
    environment, said = dict(os.environ), []
    report = run_demo(str(photos), keep=str(tmp_path / "kept"), say=said.append)
    assert dict(os.environ) == environment
    assert logging.getLogger("werkzeug").level != logging.CRITICAL
    assert said[0] == f"images: the 6 JPEG files in {photos}"
    assert [e.fidelity for e in report.epochs] == [1, 2, 3, 4, 5]
    sizes = [e.n_bytes for e in report.epochs]
    assert sizes == sorted(sizes)
    assert all(e.n_requests >= 1 for e in report.epochs)
    assert report.epochs[-1].of_full == 1
    source = (photos / report.original_key).read_bytes()
    assert report.original_sha256 == hashlib.sha256(source).hexdigest()
    kept = pcrstore.open(str(tmp_path / "kept" / "dataset"))
    assert len(kept) == 6
    with Image.open(report.sheet) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > sheet.height


@pytest.mark.slow
def test_the_demo_brings_its_own_images_and_says_which(tmp_path):
    pytest.importorskip("skimage")
    args = ["demo", "--output", str(tmp_path / "sheet.png")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.stderr
    assert "15 photos that come with scikit-image (12 of them PNG" in result.stdout
    assert "24 generated images" in result.stdout
    assert "reading all 39 images once" in result.stdout
    assert "came back byte for byte" in result.stdout
    assert "GET /" not in result.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size > (1000, 1000)
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_json_is_one_document(photos, tmp_path):
    args = ["demo", str(photos), "--json", "--output", str(tmp_path / "s.png")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["epochs"]) == 5
    assert "bucket: s3://demo" in result.stderr


def test_damaged_files_are_skipped_and_counted(photos, tmp_path):
    (photos / "cat" / "bad.jpg").write_bytes(broken())
    said = []
    run_demo(str(photos), output=str(tmp_path / "s.png"), say=said.append)
    assert said[2].endswith("1 files skipped")


def test_the_original_is_compared_with_the_file(photos, tmp_path, monkeypatch):
    real = demo_module.Dataset.fetch

    def fetch(self, indices, fidelity="full"):
        found = real(self, indices, fidelity)
        return [f[:-1] for f in found] if fidelity == "original" else found

    monkeypatch.setattr(demo_module.Dataset, "fetch", fetch)
    with pytest.raises(AssertionError, match="did not come back"):
        run_demo(str(photos), output=str(tmp_path / "s.png"))


@pytest.mark.parametrize("missing", ["moto", "flask", "skimage"])
def test_a_missing_extra_is_named(missing, monkeypatch, photos):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pcrstore\[demo\]'"):
        run_demo(str(photos) if missing != "skimage" else None)


def test_a_folder_of_ones_own_needs_no_photos(monkeypatch, photos, tmp_path):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert run_demo(str(photos), output=str(tmp_path / "s.png")).epochs


WRONG = {
    "keep-holds-something": ({"keep": "{photos}"}, DatasetExistsError),
    "keep-not-writable": ({"keep": "/proc/x"}, StoreError),
    "output-not-writable": ({"output": "/proc/x.png"}, StoreError),
    "output-no-picture": ({"output": "{tmp}/x.txt"}, OptionError),
}


@pytest.mark.parametrize(("options", "error"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_written_is_said_at_once(options, error, photos, tmp_path):
    options = {k: v.format(photos=photos, tmp=tmp_path) for k, v in options.items()}
    with pytest.raises(error):
        run_demo(str(photos), **options)
