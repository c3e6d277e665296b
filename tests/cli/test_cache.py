import json
import os
import time

import pytest
from click.testing import CliRunner

from pcrstore.cli import main
from pcrstore.core.ranges import ByteRange
from pcrstore.storage.cache.cache import Cache

URL = "s3://bucket/photos"
STRANGE = "file:///tmp/\x1b[31mred\x1b[0m"


def run(*args):
    return CliRunner().invoke(main, ["cache", *map(str, args)])


def ok(*args):
    result = run(*args)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def folder(tmp_path):
    """A cache of three bodies of one dataset, used an hour ago, and one of another."""
    cache = Cache(tmp_path / "cache", limit="1mb")
    for i in range(3):
        cache.of(URL).put(ByteRange(f"objects/{i}", 0, 1000), bytes(1000))
    for p in (tmp_path / "cache").glob("*/*/*"):
        os.utime(p, (time.time() - 3600,) * 2)
    cache.of(STRANGE).put(ByteRange("objects/0", 0, 12_345), bytes(12_345))
    return tmp_path / "cache"


def bodies(folder):
    return [p for p in folder.glob("*/*/*") if p.is_file()]


def test_it_shows_each_dataset_the_total_and_the_limit(folder):
    lines = ok(folder).splitlines()
    assert lines[0] == f"{folder}: 2 datasets, 4 entries, 15.3 kB of 1.00 MB (1.5 %)"
    assert lines[2].split() == ["entries", "bytes", "last", "use", "dataset"]
    assert lines[3].split()[:3] == ["1", "12.3", "kB"]
    assert lines[4].split()[:3] == ["3", "3.00", "kB"]
    assert lines[4].endswith(f" UTC  {URL}")
    assert len(lines) == 5


def test_urls_are_escaped_for_the_terminal_and_exact_in_json(folder):
    text = ok(folder)
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    facts = json.loads(ok(folder, "--json"))
    assert [d["url"] for d in facts["datasets"]] == [STRANGE, URL]


def test_json_has_the_same_figures(folder):
    facts = json.loads(ok(folder, "--json"))
    datasets = facts.pop("datasets")
    assert facts == {
        "folder": str(folder),
        "cleared": False,
        "limit": 10**6,
        "n_entries": 4,
        "n_bytes": 15_345,
    }
    photos = datasets[1]
    assert (photos["n_entries"], photos["n_bytes"]) == (3, 3000)
    assert photos["oldest"] <= photos["newest"] < datasets[0]["oldest"]
    assert photos["newest"].endswith("+00:00")


def test_a_url_that_was_lost_is_shown_so(folder):
    for p in folder.glob("*/url"):
        p.unlink()
    assert ok(folder).count("(its URL was lost)") == 2
    assert [d["url"] for d in json.loads(ok(folder, "--json"))["datasets"]] == [None, None]


def test_clear_empties_it(folder):
    assert ok(folder, "--clear") == f"{folder}: removed 4 entries, 15.3 kB\n"
    assert not bodies(folder)
    assert ok(folder) == f"{folder}: 0 datasets, 0 entries, 0 bytes of 1.00 MB (0.0 %)\n"
    assert ok(folder, "--clear") == f"{folder}: removed 0 entries, 0 bytes\n"


def test_clear_of_one_dataset_leaves_the_others(folder):
    assert ok(folder, "--clear", "--url", STRANGE) == f"{folder}: removed 1 entry, 12.3 kB\n"
    assert len(bodies(folder)) == 3
    facts = json.loads(ok(folder, "--clear", "--url", URL, "--json"))
    assert (facts["cleared"], facts["n_entries"], facts["n_bytes"]) == (True, 3, 3000)
    assert [d["url"] for d in facts["datasets"]] == [URL]
    assert not bodies(folder)


def other(tmp_path):
    (tmp_path / "other").mkdir(mode=0o700)
    sub = tmp_path / "other" / ("a" * 32) / "3f"
    sub.mkdir(parents=True)
    (sub / ("b" * 38)).write_text("mine")
    return tmp_path / "other"


def empty(tmp_path):
    (tmp_path / "other").mkdir(mode=0o700)
    return tmp_path / "other"


def a_file(tmp_path):
    (tmp_path / "other").write_text("mine")
    return tmp_path / "other"


def a_link(tmp_path):
    (tmp_path / "other").symlink_to("cache")
    return tmp_path / "other"


def open_to_all(tmp_path):
    (tmp_path / "cache").chmod(0o777)
    return tmp_path / "cache"


WRONG = {
    "somebody's-files": (other, "is not a pcrstore cache (it has no marker file)"),
    "empty": (empty, "is not a pcrstore cache (it has no marker file)"),
    "absent": (lambda p: p / "none", "is not a pcrstore cache: there is no such folder"),
    "file": (a_file, "must be a folder, got a file"),
    "link": (a_link, "must be a folder itself, got a link"),
    "writable": (open_to_all, "must not be writable by others"),
    "url": (lambda _: "s3://bucket/cache", "must be a folder on this machine"),
}


@pytest.mark.parametrize("more", [(), ("--clear",), ("--clear", "--url", URL)])
@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_cache_is_left_alone(folder, tmp_path, make, message, more):
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run(path, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("pcrstore: error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    told = run(path, *more, "--json")
    assert told.exit_code == 2
    assert message in json.loads(told.stdout)["error"]["message"]
    assert len(bodies(folder)) == 4


CALLS = {
    "url-without-clear": (("--url", URL), "--url is for --clear"),
    "unknown-url": (("--clear", "--url", URL + "/"), f"holds nothing of {URL}/, it holds file:///"),
}


@pytest.mark.parametrize(("more", "message"), CALLS.values(), ids=CALLS)
def test_a_wrong_call_removes_nothing(folder, more, message):
    result = run(folder, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "\x1b" not in result.stderr
    assert len(bodies(folder)) == 4


def test_a_disk_that_fails_is_one_line(folder, monkeypatch):
    def scandir(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", scandir)
    result = run(folder)
    assert result.exit_code == 3
    assert result.stderr == (
        f"pcrstore: error: cache {folder} cannot be read: Input/output error\n"
    )
