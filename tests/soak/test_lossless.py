"""Nothing is lost: every real image, in both layouts, against libjpeg's own tools.

- `jpegtran -copy none -optimize` of the source and of the full-fidelity file: identical bytes, so
  the same coefficients, quantisation tables and geometry.
- `export` at fidelity `original`: the source files, byte for byte.
- Every prefix: simplejpeg (strict) and `djpeg` (exit code 0, which a warning would make 2) decode
  it to the source's size.
- Pixels: both decoders and `Dataset.read` agree, at scale 1, 2, 4 and 8, on a sample.
- Sizes: all objects but the restore regions against the sources.

The 101 odd files have a class each in their MANIFEST.csv, made with jpegtran and Pillow:

    clean                 kept losslessly under every policy
    damaged-but-decodes   refused, since jpegtran warned; Pillow opens it, so `encode` encodes it
    pillow-only           refused; `encode` encodes it
    jpegtran-only         refused; Pillow fails, so `encode` skips it
    rejected-by-both      as jpegtran-only

`raise` must list every bad file by name and commit nothing; the other policies must have these
outcomes. The RSS and the time of a conversion of them are bounded.
"""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from jpeg_files import sample_files

import pcrstore
from benchmarks.data import as_decoded
from benchmarks.measuring import peak_rss
from pcrstore import Options
from pcrstore.image.decoder import decode

pytestmark = pytest.mark.soak

simplejpeg = pytest.importorskip("simplejpeg")

SETS = {
    # folder: (images, most bytes of objects without restore regions / bytes of sources)
    "imagenet-sample": (250, 0.965),
    "clothing-small": (3781, 0.98),
}
LAYOUTS = ["record", "zarr"]
PIXEL_SAMPLE = 40
MOST_RSS = 512 * 2**20
MOST_SECONDS = 60.0
CONVERT = """
import json, sys, pcrstore
if __name__ == "__main__":
    source, target, layout, policy = sys.argv[1:]
    options = pcrstore.Options(layout=layout, policy=policy)
    try:
        report = pcrstore.convert(source, target, options, workers=2)
        print(json.dumps({p.key: p.outcome for p in report.problems}))
    except pcrstore.SourceError as e:
        lines = str(e).splitlines()[1:]
        print(json.dumps({line.strip().partition(": ")[0]: "refused" for line in lines}))
"""


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module", params=SETS)
def source(request, tmp_path_factory):
    """A set's name and its images, fewer and spread evenly where --soak-scale is below 1."""
    n_images, _ = SETS[request.param]
    files = sample_files(request.param, "*.[jJ]*")  # .jpg or .JPEG
    assert len(files) == n_images
    n = max(20, round(n_images * request.config.getoption("--soak-scale")))
    target = tmp_path_factory.mktemp(request.param)
    for i in range(0, len(files), len(files) // n):
        folder = target / files[i].parent.name
        folder.mkdir(exist_ok=True)
        shutil.copyfile(files[i], folder / f"{i:04}.jpg")
    return request.param, target


@pytest.fixture(scope="module", params=LAYOUTS)
def converted(source, request, tmp_path_factory):
    """The source folder, the dataset and its folder."""
    target = tmp_path_factory.mktemp("out") / request.param
    pcrstore.convert(source[1], target, Options(layout=request.param), workers=2)
    return source[1], pcrstore.open(target), target


def jpegtran(data):
    """Return what jpegtran makes of a file: its coefficients in a normal form."""
    command = [shutil.which("jpegtran"), "-copy", "none", "-optimize"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def djpeg(data):
    """Return height and width of what djpeg decodes; a warning is an error."""
    command = [shutil.which("djpeg"), "-pnm"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    width, height = done.stdout[:64].split(b"\n", 2)[1].split()
    return int(height), int(width)


def strict(data):
    """Return height and width of what simplejpeg decodes strictly."""
    return simplejpeg.decode_jpeg(data, strict=True).shape[:2]


RESULTS = {}


def once(tool, files):
    """Run a tool on each distinct file once: both layouts hold the same ones."""
    keys = [(tool, hashlib.sha256(f).digest()) for f in files]
    new = {key: f for key, f in zip(keys, files, strict=True) if key not in RESULTS}
    with ThreadPoolExecutor(2) as pool:
        RESULTS.update(zip(new, pool.map(tool, new.values()), strict=True))
    return [RESULTS[key] for key in keys]


def batches(n):
    return [range(start, min(start + 64, n)) for start in range(0, n, 64)]


def test_the_objects_are_smaller_than_the_sources(source, converted):
    n_images, largest = SETS[source[0]]
    folder, ds, target = converted
    if len(files_of(folder)) < n_images:
        pytest.skip("the bound is one of the whole set")
    total = sum(p.stat().st_size for p in files_of(target))
    restore = ds.manifest.totals.restore
    if ds.manifest.layout == "zarr":  # where they are compressed
        restore = sum(p.stat().st_size for p in files_of(target) if "/restore/c/" in str(p))
    assert (total - restore) / ds.manifest.totals.sources <= largest
    assert len(ds) == len(files_of(folder))


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="jpegtran is not installed")
def test_full_files_have_the_coefficients_of_the_sources(converted):
    source, ds, _ = converted
    for batch in batches(len(ds)):
        theirs = once(jpegtran, [(source / ds.keys[i]).read_bytes() for i in batch])
        ours = once(jpegtran, ds.fetch(batch))
        assert [ds.keys[i] for i, a, b in zip(batch, ours, theirs, strict=True) if a != b] == []


def test_exported_originals_are_the_sources(converted, tmp_path):
    source, ds, _ = converted
    assert_originals(source, ds, tmp_path)


def assert_originals(source, ds, target):
    pcrstore.export(ds, target / "back", fidelity="original")
    assert len(files_of(target / "back")) == len(ds) > 0
    for key in ds.keys:
        assert (target / "back" / key).read_bytes() == (source / key).read_bytes(), key


@pytest.mark.skipif(shutil.which("djpeg") is None, reason="djpeg is not installed")
def test_every_prefix_decodes_to_the_size_of_the_source(converted):
    _, ds, _ = converted
    sizes = [*zip(ds.column("height"), ds.column("width"), strict=True)]
    for k in range(1, ds.n_groups + 1):
        for batch in batches(len(ds)):
            files = ds.fetch(batch, k)
            assert once(strict, files) == [sizes[i] for i in batch]
            assert once(djpeg, files) == [sizes[i] for i in batch]


def test_both_decoders_and_read_give_the_same_pixels(converted):
    _, ds, _ = converted
    sample = range(0, len(ds), max(1, len(ds) // PIXEL_SAMPLE))
    for k in range(1, ds.n_groups + 1):
        files = ds.fetch(sample, k)
        if k < ds.n_groups:
            files = [as_decoded(f) for f in files]
        for scale in (1, 2, 4, 8):
            for f, read in zip(files, ds.read(sample, k, scale=scale), strict=True):
                fast = decode(f, scale=scale, engine="simplejpeg")
                assert np.array_equal(fast, decode(f, scale=scale, engine="pillow"))
                assert np.array_equal(fast, read)


OUTCOMES = {
    "raise": dict.fromkeys(
        ["damaged-but-decodes", "pillow-only", "jpegtran-only", "rejected-by-both"], "refused"
    ),
    "skip": dict.fromkeys(
        ["damaged-but-decodes", "pillow-only", "jpegtran-only", "rejected-by-both"], "skipped"
    ),
    "opaque": dict.fromkeys(
        ["damaged-but-decodes", "pillow-only", "jpegtran-only", "rejected-by-both"], "opaque"
    ),
    "encode": {
        "damaged-but-decodes": "encoded",
        "pillow-only": "encoded",
        "jpegtran-only": "skipped",
        "rejected-by-both": "skipped",
    },
}
"""By policy, what becomes of the files of each class but `clean`."""


@pytest.mark.parametrize("policy", OUTCOMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_odd_files_fall_under_the_policies(tmp_path, layout, policy):
    [manifest] = sample_files("odd-jpegs", "MANIFEST.csv")
    source, target, script = tmp_path / "in", tmp_path / "ds", tmp_path / "convert.py"
    shutil.copytree(manifest.parent, source / "odd", ignore=shutil.ignore_patterns(manifest.name))
    script.write_text(CONVERT)
    with manifest.open() as f:
        classes = {f"odd/{row['file']}": row["class_"] for row in csv.DictReader(f)}
    command = [sys.executable, str(script), str(source), str(target), layout, policy]
    out, peak, _ = peak_rss(command, seconds=MOST_SECONDS)
    wanted = OUTCOMES[policy]
    assert json.loads(out) == {k: wanted[c] for k, c in classes.items() if c != "clean"}
    assert peak < MOST_RSS
    if policy == "raise":
        assert not [*target.glob("manifests/*")]
    else:
        assert_originals(source, pcrstore.open(target), tmp_path)
