"""The benchmarks: their driver, needs and results, and the parts that need a test of their own."""

import json
import subprocess
import sys
from argparse import Namespace
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest

from benchmarks import __main__ as driver
from benchmarks import needs
from benchmarks.peers.shards import view
from benchmarks.results import Figure, Report
from benchmarks.server.base import BUCKET
from benchmarks.server.counting import CountingS3
from benchmarks.server.listing import listing

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in (ROOT / "benchmarks").rglob("*.py")
)
PACKAGES = {
    "benchmarks.peers.driver_litdata": "litdata",
    "benchmarks.peers.driver_mds": "torch",
    "benchmarks.peers.driver_memory": "simplejpeg",
    "benchmarks.peers.driver_pcrstore": "torch",
    "benchmarks.peers.driver_webdataset": "webdataset",
    "benchmarks.peers.map_style": "torch",
    "benchmarks.peers.transform": "simplejpeg",
    "benchmarks.speed.engine_run": "torch",
}
"""Packages that modules import and that need not be installed."""

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_module_imports_and_does_nothing():
    names = [m for m in MODULES if m not in PACKAGES or find_spec(PACKAGES[m]) is not None]
    done = run("-c", IMPORT_ALL, *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(names) > 25


def test_a_program_imports_without_what_it_needs():
    blocked = "import sys\nfor name in ('torch', 'simplejpeg', 's3fs', 'obstore', 'litdata'):\n"
    done = run(
        "-c", f"{blocked}    sys.modules[name] = None\n{IMPORT_ALL}", *driver.PROGRAMS.values()
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_driver_lists_every_program_with_a_line():
    done = run("-m", "benchmarks")
    lines = done.stdout.splitlines()[2:]
    assert [line.split()[0] for line in lines] == sorted(driver.PROGRAMS)
    assert all(line.endswith(".") and len(line) < 120 for line in lines)


def test_the_driver_names_the_programs_when_it_knows_none_of_a_name(capsys):
    assert driver.main(["converts"]) == 2
    assert "'converts', only cache, convert" in capsys.readouterr().err


@pytest.mark.parametrize("name", driver.PROGRAMS)
def test_a_program_says_how_it_is_called(name):
    said = driver.parser_of(name, driver.program_of(name)).format_help()
    assert f"usage: python -m benchmarks {name}" in said
    assert f"\n    python -m benchmarks {name}" in said, "its docstring has an example"


@pytest.mark.parametrize("name", sorted(driver.PROGRAMS.keys() - {"cache"}))  # which needs nothing
def test_a_program_says_all_that_it_needs_before_it_prepares(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(needs, "find_spec", lambda _: None)
    monkeypatch.setattr(needs, "found_program", lambda _: None)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.delenv("PCRSTORE_TEST_DATA", raising=False)
    work = tmp_path / "work"
    argv = [name, "--work", str(work), *{
        "serve": [str(tmp_path)], "shuffle": ["--streaming-python", "no-such-python"]
    }.get(name, [])]  # fmt: skip
    needed = driver.program_of(name).NEEDS
    assert driver.main(argv) == 2
    said = capsys.readouterr().err.splitlines()[1:]
    assert said == [f"    {need.what}: {need.bring}" for need in needed]
    assert not work.exists()


NEEDS = {
    "package": (
        needs.package("no_such_package", "'pcrstore[none]'"),
        "pip install 'pcrstore[none]'",
    ),
    "program": (needs.program("no-such-program", "none-progs"), "apt-get install none-progs"),
    "nginx": (needs.NGINX, "apt-get install nginx-light libnginx-mod-http-lua"),
    "link": (needs.LINK, "--proxy"),
    "data": (needs.data("imagenet-sample", "other"), "export PCRSTORE_TEST_DATA="),
    "disk": (needs.free_disk(10**9), "--work FOLDER"),
}


@pytest.mark.parametrize(("need", "command"), NEEDS.values(), ids=NEEDS)
def test_what_is_missing_is_named_with_the_command_that_brings_it(
    need, command, monkeypatch, tmp_path
):
    monkeypatch.setattr(needs, "found_program", lambda _: None)
    (tmp_path / "imagenet-sample").mkdir()
    args = Namespace(data=tmp_path, work=tmp_path / "not" / "there", proxy=False)
    [line] = needs.missing([need], args)
    assert line.startswith(f"{need.what}: ")
    assert command in line


def test_what_is_there_is_not_named(tmp_path):
    (tmp_path / "imagenet-sample").mkdir()
    args = Namespace(data=tmp_path, work=tmp_path, proxy=True)
    there = [needs.package("json", ""), needs.program("sh", ""), needs.LINK, needs.free_disk(0)]
    assert needs.missing([*there, needs.data("imagenet-sample")], args) == []


BOUNDS = {
    "none": ({}, 5, True),
    "at-most": ({"at_most": 5}, 5, True),
    "over-most": ({"at_most": 5}, 5.01, False),
    "at-least": ({"at_least": 5}, 5, True),
    "under-least": ({"at_least": 5}, 4.99, False),
    "between": ({"at_least": 4, "at_most": 6}, 5, True),
    "nan": ({"at_most": 5}, float("nan"), False),
}


@pytest.mark.parametrize(("bounds", "value", "ok"), BOUNDS.values(), ids=BOUNDS)
def test_a_figure_is_ok_within_its_bounds(bounds, value, ok):
    assert Figure(name="speed", value=value, **bounds).ok == ok
    report = Report(name="engine", options={})
    report.add("speed", value, **bounds)
    assert report.finish(None) == (0 if ok else 1)


def test_results_are_written_with_what_they_depend_on(tmp_path):
    report = Report(name="engine", options={"rounds": 3, "work": tmp_path, "json": None})
    report.add("speed", [3, 1, 2], "images/s", at_least=1.5)
    report.add("peak RSS", float("nan"), "B", detail="nothing ran")
    assert report.finish(tmp_path / "out.json") == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert (out["name"], out["rounds"]) == ("engine", 3)
    assert out["options"] == {"rounds": 3, "work": str(tmp_path), "json": None}
    assert out.keys() >= {"commit", "python", "cpu_count"}
    speed, rss = out["figures"]
    assert speed == {
        "name": "speed", "value": 2, "unit": "images/s", "at_least": 1.5, "at_most": None,
        "detail": "", "runs": [3, 1, 2],
    }  # fmt: skip
    assert (rss["value"], rss["detail"]) == (None, "nothing ran")


def test_the_counting_server_counts_by_kind(tmp_path):
    (tmp_path / "ds" / "index").mkdir(parents=True)
    (tmp_path / "ds" / "index" / "a").write_bytes(b"0123456789")
    with CountingS3(tmp_path) as server:
        url = urlsplit(str(server.options["endpoint_url"]))
        connection = HTTPConnection(url.hostname, url.port)
        connection.request("GET", f"/{BUCKET}/ds/index/a", headers={"Range": "bytes=2-4"})
        assert connection.getresponse().read() == b"234"
        connection.request("GET", f"/{BUCKET}?list-type=2&prefix=ds/")
        assert b"<Key>ds/index/a</Key>" in connection.getresponse().read()
        connection.close()
        assert server.of("index") == (1, 3)
        assert server.of()[0] == 2
        server.clear()
        assert server.of() == (0, 0)


@pytest.fixture
def folder(tmp_path):
    for key in ("a/1", "a/2", "a/b/3", "a+", "c"):
        (tmp_path / "bucket" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / key).write_bytes(b"x" * len(key))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").write_bytes(b"x")
    return tmp_path


def parts(folder, query, tag):
    xml = listing(folder / "bucket", "bucket", f"list-type=2&{query}").decode()
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
    folder, count, n = view(tmp_path, name, wanted)
    assert (count, n) == (5 * shards, shards)
    linked = sorted(p for p in (tmp_path / folder).iterdir() if p.name != "index.json")
    assert [p.read_bytes() for p in linked] == [b"%d" % (i % 3) for i in range(shards)]
    index = (tmp_path / folder / "index.json").read_text()
    assert all(p.name in index for p in linked)
