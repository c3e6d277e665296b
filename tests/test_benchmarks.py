"""The benchmarks can be imported, and those that are programs say how they are called."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest

from benchmarks.peers import shards as _peer_data
from benchmarks.server import listing as _listing

ROOT = Path(__file__).parents[1]
MODULES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem != "__init__")
NEEDS = {
    "_peer_mds": "torch",
    "_peer_webdataset": "webdataset",
    "_peer_litdata": "litdata",
    "_peer_pcrstore": "torch",
    "_engine_run": "torch",
    "_client": "simplejpeg",
    "_contest": "simplejpeg",
    "_peer_memory": "simplejpeg",
    "_verdicts": "simplejpeg",
    "engine": "simplejpeg",
    "peers": "simplejpeg",
}
"""What a module imports that need not be installed."""

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"benchmarks.{name}")
"""

HELP_ALL = """
import runpy, sys
names = sys.argv[1:]
for name in names:
    print("==", name)
    sys.argv = [name + ".py", "--help"]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    except SystemExit as e:
        assert not e.code, (name, e.code)
"""


def installed(name):
    return name not in NEEDS or find_spec(NEEDS[name]) is not None


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_module_imports_and_does_nothing():
    names = [name for name in MODULES if installed(name)]
    done = run("-c", IMPORT_ALL, *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(names) > 10


@pytest.mark.slow
def test_every_program_says_how_it_is_called():
    programs = [name for name in MODULES if not name.startswith("_") and installed(name)]
    done = run("-W", "ignore", "-c", HELP_ALL, *programs)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in programs if f"== {name}\nusage: {name}.py" not in done.stdout] == []


@pytest.fixture
def folder(tmp_path):
    for key in ("a/1", "a/2", "a/b/3", "a+", "c"):
        (tmp_path / "bucket" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / key).write_bytes(b"x" * len(key))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").write_bytes(b"x")
    return tmp_path


def parts(folder, query, tag):
    xml = _listing.listing(folder, f"/bucket?list-type=2&{query}").decode()
    return [piece.split(f"</{tag}>")[0] for piece in xml.split(f"<{tag}>")[1:]]


def test_a_listing_has_the_keys_in_order_of_their_bytes(folder):
    assert parts(folder, "", "Key") == ["a+", "a/1", "a/2", "a/b/3", "c"]
    assert parts(folder, "", "Size") == ["2", "3", "3", "5", "1"]


def test_a_listing_with_a_delimiter_folds_folders(folder):
    assert parts(folder, "delimiter=/", "Key") == ["a+", "c"]
    assert parts(folder, "prefix=a/&delimiter=/", "Key") == ["a/1", "a/2"]
    assert parts(folder, "prefix=a/&delimiter=/", "Prefix") == ["a/", "a/b/"]


@pytest.mark.parametrize("most", [1, 2, 4, 5])
@pytest.mark.parametrize("delimiter", ["", "/"])
def test_pages_of_a_listing_are_the_whole_of_it(folder, most, delimiter):
    base = f"delimiter={delimiter}" if delimiter else "x=1"
    whole = parts(folder, base, "Key") + parts(folder, base, "Prefix")[1:]
    token, found = "", []
    for _ in range(6):
        page = f"{base}&max-keys={most}&continuation-token={quote(token)}"
        rows = parts(folder, page, "Key") + parts(folder, page, "Prefix")[1:]
        assert len(rows) <= most
        found += rows
        if parts(folder, page, "IsTruncated") == ["false"]:
            break
        (token,) = parts(folder, page, "NextContinuationToken")
    assert sorted(found) == sorted(whole)


def test_a_listing_does_not_leave_its_bucket(folder):
    assert parts(folder, "prefix=../other/", "Key") == []


def write_base(tmp_path, name, counts):
    base = tmp_path / f"base-{name}"
    base.mkdir()
    (base / "done").write_text(str(sum(counts)))
    for i in range(len(counts)):
        (base / f"{i}.bin").write_bytes(b"%d" % i)
    shards = {
        "mds": [{"raw_data": {"basename": f"{i}.bin"}, "samples": n} for i, n in enumerate(counts)],
        "litdata": [{"filename": f"{i}.bin", "chunk_size": n} for i, n in enumerate(counts)],
    }[name]
    key = "shards" if name == "mds" else "chunks"
    (base / "index.json").write_text(f'{{"{key}": {shards!r}, "v": 2}}'.replace("'", '"'))


@pytest.mark.parametrize("name", ["mds", "litdata"])
@pytest.mark.parametrize(("wanted", "shards"), [(1, 2), (10, 2), (11, 4), (20, 4), (21, 6)])
def test_a_longer_data_set_is_links_to_an_even_number_of_shards(tmp_path, name, wanted, shards):
    write_base(tmp_path, name, [5, 5, 5])
    folder, count, n = _peer_data.view(tmp_path, name, wanted)
    assert (count, n) == (5 * shards, shards)
    linked = sorted(p for p in (tmp_path / folder).iterdir() if p.name != "index.json")
    assert [p.read_bytes() for p in linked] == [b"%d" % (i % 3) for i in range(shards)]
    index = (tmp_path / folder / "index.json").read_text()
    assert all(p.name in index for p in linked)
