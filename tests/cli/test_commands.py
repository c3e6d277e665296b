import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from flows import put_all
from msgspec.structs import replace
from rewritten import Draft
from small_datasets import stored
from small_sources import broken, encoded, write_sources

import pcrstore
from pcrstore import errors
from pcrstore.cli import main, params
from pcrstore.cli.shell import exit_code
from pcrstore.cli.text import dollars, printable, size
from pcrstore.cost.model import DEFAULT_COST
from pcrstore.storage.open import open_store
from pcrstore.testing.stores import RecordingStore

REPOSITORY = Path(pcrstore.__file__).parents[1]
ESCAPE = "cat/\x1b[31mred\x1b[0m.jpg"


def run(*args, **options):
    return CliRunner().invoke(main, [str(a) for a in args], **options)


def ok(*args):
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def spawned(*args, **options):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pcrstore", *map(str, args)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    files = {f"{c}/{i}.jpg": encoded(i, (40 + i, 30)) for i, c in enumerate(["cat", "dog"] * 4)}
    return write_sources(tmp_path_factory.mktemp("photos"), files)


@pytest.fixture(scope="session")
def dataset(photos, tmp_path_factory):
    target = tmp_path_factory.mktemp("datasets") / "ds"
    ok("convert", photos, target, "--workers", 1, "--record-images", 3)
    return target


# Help


def commands():
    context = click.Context(main)
    return [(name, main.get_command(context, name)) for name in main.list_commands(context)]


@pytest.mark.parametrize(("name", "command"), commands(), ids=[n for n, _ in commands()])
def test_every_command_has_help_an_example_and_help_for_each_option(name, command):
    assert command.help
    assert command.short_help
    text = ok(name, "--help")
    assert f"Example:\n      pcrstore {name}" in text
    unhelped = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not unhelped
    assert "--json" in text


def test_the_group_has_help_and_an_example():
    assert "Example:\n      pcrstore convert" in ok("--help")
    assert ok("--version").startswith("pcrstore, version ")


# Exit codes

CODES = {
    0: {"PcrstoreError"},
    1: {
        "ChecksumError",
        "DamagedJpegError",
        "DecodeError",
        "FormatError",
        "JpegError",
        "LimitError",
        "SourceError",
        "UnsupportedFormatError",
        "UnsupportedJpegError",
        "WorkerDiedError",
    },
    2: {
        "DatasetExistsError",
        "FidelityError",
        "MissingDependencyError",
        "OptionError",
        "ScriptError",
        "SourceChangedError",
        "UsageError",
    },
    3: {"AccessDeniedError", "StoreError", "TransientStoreError"},
}


def test_every_error_has_its_exit_code():
    known = {n for names in CODES.values() for n in names} | {"NotFoundError"}
    assert known == set(errors.__all__)
    for code, names in CODES.items():
        for name in names - {"PcrstoreError"}:
            assert exit_code(getattr(errors, name)("x")) == code, name


def test_what_is_not_there_is_a_wrong_call_only_where_the_store_answered():
    assert exit_code(errors.NotFoundError("no dataset there")) == 2
    missing = errors.NotFoundError("no such bucket")
    missing.__cause__ = OSError("404")
    assert exit_code(missing) == 3


# The three kinds of store a wrong call is tried on have their own placeholders.
WRONG = {
    "no-command": (["frobnicate"], 2, "No such command"),
    "no-option": (["info", "{ds}", "--frobnicate"], 2, "No such option"),
    "no-dataset": (["info", "{tmp}/none"], 2, "no pcrstore dataset there"),
    "no-dataset-to-verify": (["verify", "{tmp}/none"], 2, "no pcrstore dataset there"),
    "no-dataset-in-bucket": (["info", "{s3}"], 2, "no pcrstore dataset there"),
    "no-version": (["info", "{ds}", "--version", "7"], 2, "expected one of its versions 1, got 7"),
    "no-bucket": (["info", "s3://no-such-bucket-here/x"], 3, "no such bucket"),
    "no-bucket-to-write": (["convert", "{photos}", "s3://no-such-bucket-here/x"], 3, "no such buc"),
    "driver-unknown": (["info", "frob://x/y"], 2, "frob"),
    "fidelity-0": (["cat", "{ds}", "0", "--fidelity", "0"], 2, r"must be in 1\.\.5, got 0"),
    "fidelity-6": (["cat", "{ds}", "0", "--fidelity", "6"], 2, r"must be in 1\.\.5, got 6"),
    "fidelity-x": (["export", "{ds}", "{tmp}/o", "--fidelity", "x"], 2, "fidelity must be"),
    "no-key": (["cat", "{ds}", "cat/none.jpg"], 2, "no image has the key 'cat/none.jpg'"),
    "no-index": (["cat", "{ds}", "8"], 2, r"index must be in 0\.\.7, got 8"),
    "empty-source": (["convert", "{empty}", "{tmp}/o"], 2, "found no file"),
    "no-source": (["convert", "{tmp}/none", "{tmp}/o"], 2, "no such folder"),
    "source-is-a-file": (["convert", "{photos}/cat/0.jpg", "{tmp}/o"], 2, "got a file"),
    "target-under-a-file": (["convert", "{photos}", "{text}/o"], 3, "cannot"),
    "target-not-writable": (["convert", "{photos}", "/proc/o"], 3, "cannot"),
    "export-not-writable": (["export", "{ds}", "/proc/o"], 3, "cannot"),
    "export-not-empty": (["export", "{ds}", "{photos}"], 2, "expected an empty folder"),
    "target-taken": (["convert", "{photos}", "{ds}", "--seed", "5"], 2, "already holds version 1"),
    "bad-json": (["info", "{ds}", "--storage-options", "{oops"], 2, "expected JSON"),
    "json-list": (["info", "{ds}", "--storage-options", "[1]"], 2, "expected a JSON object"),
    "no-options-file": (["info", "{ds}", "--storage-options", "@/none"], 2, "cannot read /none"),
    "local-options": (["info", "{ds}", "--storage-options", '{"a": 1}'], 2, "takes no storage_opt"),
    "no-script": (["convert", "{photos}", "{tmp}/o", "--script", "frob"], 2, "script must be one"),
    "bad-script": (["convert", "{photos}", "{tmp}/o", "--script", "{bad}"], 2, "line 2"),
    "not-a-script": (["convert", "{photos}", "{tmp}/o", "--script", "{text}"], 2, "a line .label"),
    "no-classes": (["convert", "{photos}", "{tmp}/o", "--classes", "{tmp}/none"], 2, "classes"),
    "bad-size": (["convert", "{photos}", "{tmp}/o", "--record-bytes", "4x"], 2, "such as .10gb"),
    "two-sizes": (
        ["convert", "{photos}", "{tmp}/o", "--record-bytes", "4mib", "--record-images", "5"],
        2,
        "not both",
    ),
    "big-records": (
        ["convert", "{photos}", "{tmp}/o", "--record-bytes", "2gib"],
        2,
        "at most 1073741824",
    ),
    "no-workers": (["convert", "{photos}", "{tmp}/o", "--workers", "0"], 2, "workers"),
    "demo-without-images": (["demo", "{empty}"], 2, "found none"),
    "damaged-source": (["convert", "{damaged}", "{tmp}/o", "--workers", "1"], 1, "cat/bad.jpg: "),
    "nothing-left": (
        ["convert", "{damaged}/cat", "{tmp}/o", "--workers", "1", "--on-error", "skip"],
        1,
        "no file could be converted",
    ),
}


@pytest.fixture
def places(request, photos, dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_text("[dc]\n*: 9-4, 0, 1\n")
    (tmp_path / "text.txt").write_text("hello")
    write_sources(tmp_path / "damaged", {"cat/bad.jpg": broken()})
    found = {
        "tmp": tmp_path,
        "photos": photos,
        "ds": dataset,
        "empty": tmp_path / "empty",
        "bad": tmp_path / "bad.txt",
        "text": tmp_path / "text.txt",
        "damaged": tmp_path / "damaged",
    }
    if "s3://" in str(request.node.callspec.params) or "{s3}" in str(request.node.callspec.params):
        server = request.getfixturevalue("s3_server")
        found["s3"] = server.url
        found["options"] = json.dumps(server.options)
    return found


def filled(args, places):
    out = [re.sub(r"\{(\w+)\}", lambda m: str(places[m[1]]), a) for a in args]
    if "options" in places:
        name = "--dst-storage-options" if out[0] == "convert" else "--storage-options"
        out += [name, places["options"]]
    return out


@pytest.mark.parametrize(("args", "code", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_gives_its_exit_code_and_one_clear_line(args, code, message, places):
    args = filled(args, places)
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, "")
    first = result.stderr.splitlines()[0]
    assert first.startswith("pcrstore: error: ")
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.stderr
    if args[0] in dict(commands()):
        told = run(*args, "--json")
        assert told.exit_code == code
        error = json.loads(told.stdout)["error"]
        assert set(error) == {"type", "message"}
        assert printable(error["message"].partition("\n")[0]) in first


SPAWNED = ["no-dataset", "fidelity-0", "bad-json", "damaged-source", "target-under-a-file"]


@pytest.mark.parametrize("args", [WRONG[n][0] for n in SPAWNED], ids=SPAWNED)
def test_no_process_ends_in_a_traceback(args, places):
    code = next(c for a, c, _ in WRONG.values() if a == args)
    result = spawned(*filled(args, places))
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith(b"pcrstore: error: ")
    assert b"Traceback" not in result.stderr


def test_without_credentials_the_store_is_not_reached(s3_server, monkeypatch):
    for name in [n for n in os.environ if n.startswith("AWS_") and "KEY" in n]:
        monkeypatch.delenv(name)
    result = run("info", s3_server.url, "--storage-options", json.dumps(s3_server.options))
    assert result.exit_code == 3
    assert "no usable credentials" in result.stderr


@pytest.mark.slow
def test_a_store_that_cannot_be_reached():
    result = run("info", "https://127.0.0.1:1/x")
    assert result.exit_code == 3
    assert "cannot be reached" in result.stderr


def test_a_missing_driver_is_named():
    code = (
        "import sys; sys.modules.update(s3fs=None, obstore=None); "
        "from pcrstore.cli import main; main(['info', 's3://bucket/x'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=False, timeout=60
    )
    assert result.returncode == 2
    assert b"pcrstore[s3]" in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_bug_is_one_line_too(monkeypatch, dataset):
    def broken_open(*_args):
        raise ZeroDivisionError("oops\x1b")

    monkeypatch.setattr(params, "open_store", broken_open)
    result = run("info", dataset)
    assert result.exit_code == 70
    assert result.stderr == (
        "pcrstore: error: this is a bug in pcrstore: ZeroDivisionError: oops\\x1b; "
        "PCRSTORE_TRACEBACK=1 shows where\n"
    )


def test_secrets_given_on_the_command_line_are_never_shown(s3_server, tmp_path):
    options = {**s3_server.options, "key": "AKIDEXAMPLE7", "secret": "hunter2hunter2"}
    file = tmp_path / "options.json"
    file.write_text(json.dumps(options))
    for given in (json.dumps(options), f"@{file}", json.dumps(options)[:-1]):
        result = run("info", "s3://no-such-bucket-here/x", "--storage-options", given, "--json")
        assert result.exit_code in (2, 3)
        assert "hunter2" not in result.output
        assert "AKIDEXAMPLE7" not in result.output


# Interrupts and pipes


def is_running(pid):
    """Say whether a process does anything still; a zombie waits for its new parent alone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_reader_that_goes_away_ends_a_command_quietly(dataset):
    process = subprocess.Popen(
        [sys.executable, "-m", "pcrstore", "ls", str(dataset)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(60) == 141


@pytest.mark.slow
def test_an_interrupt_ends_a_conversion_and_its_workers_soon(tmp_path):
    picture = encoded(1, (1600, 1200))
    write_sources(tmp_path / "photos", {f"cat/{i}.jpg": picture for i in range(200)})
    args = ["convert", tmp_path / "photos", tmp_path / "ds", "--workers", 2, "--record-images", 4]
    process = subprocess.Popen(
        [sys.executable, "-m", "pcrstore", *map(str, args), "--object-bytes", "1mib"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 50
    while not list((tmp_path / "ds").rglob("objects/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-1] == (
        "pcrstore: interrupted; run the same command again to go on"
    )
    assert b"Traceback" not in stderr
    assert len(children) >= 2
    time.sleep(0.5)
    assert not [c for c in children if is_running(c)]


# What the commands do


def test_convert_reports_what_it_did_and_then_has_nothing_to_do(photos, tmp_path):
    args = ("convert", photos, tmp_path / "ds", "--workers", 1)
    text = ok(*args)
    assert "8 images of 8 files in 1 record" in text
    assert re.search(r"^ +5  refine-0 .* 100\.0 % +1\.0000$", text, re.MULTILINE)
    assert "images/s" in text
    again = ok(*args)
    assert again.startswith("nothing to do")
    report = json.loads(ok(*args, "--json"))
    assert report["already"]
    assert report["n_images"] == 8
    assert len(report["group_bytes"]) == 5


def test_convert_lists_twenty_problems_and_counts_the_rest(tmp_path):
    files = {f"cat/{i:02d}.jpg": broken() for i in range(25)}
    write_sources(tmp_path / "in", {**files, "cat/good.jpg": encoded(1, (16, 16))})
    args = ("convert", tmp_path / "in", tmp_path / "ds", "--workers", 1, "--on-error", "skip")
    text = ok(*args)
    assert "25 files that cannot be kept losslessly as JPEG:\n       25 skipped: " in text
    assert "cat/19.jpg" in text
    assert "cat/20.jpg" not in text
    assert "and 5 more" in text
    assert len(json.loads(ok(*args, "--json"))["problems"]) == 25


def test_a_refused_conversion_lists_its_files_on_lines_of_their_own(tmp_path):
    files = {f"cat/{i:03d}.jpg": broken() for i in range(60)}
    write_sources(tmp_path / "in", files)
    args = ("convert", tmp_path / "in", tmp_path / "ds", "--workers", 1)
    result = run(*args)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[1].startswith("  cat/000.jpg: ")
    assert lines[-1].startswith("  cat/059.jpg: ")
    assert len(lines) == 61


def test_names_are_escaped_for_the_terminal_and_exact_in_json(tmp_path):
    write_sources(tmp_path / "in", {ESCAPE: encoded(1, (16, 16)), "cat/\x07bad.jpg": broken()})
    report = run("convert", tmp_path / "in", tmp_path / "ds", "--workers", 1, "--on-error", "skip")
    shown = report.output + ok("ls", tmp_path / "ds") + ok("info", tmp_path / "ds")
    shown += run("convert", tmp_path / "in", tmp_path / "ds2", "--workers", 1).output
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert printable(ESCAPE) in shown
    assert json.loads(ok("ls", tmp_path / "ds", "--json"))["images"][0]["key"] == ESCAPE


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_info_tells_everything_by_few_requests(photos, tmp_path, monkeypatch, layout):
    ok("convert", photos, tmp_path / "ds", "--workers", 1, "--layout", layout)
    stores = []

    def recorded(*args):
        stores.append(RecordingStore(real(*args)))
        return stores[-1]

    real = params.open_store
    monkeypatch.setattr(params, "open_store", recorded)
    text = ok("info", tmp_path / "ds")
    # In the zarr layout the first index part says how large chunks are.
    more = ["get_range"] * 2 if layout == "zarr" else []
    assert [r.op for s in stores for r in s.requests] == ["list", "get", *more]
    for part in (f"{layout} layout", "script sa5", "8 images", "2 classes: cat, dog", "refine-0"):
        assert part in text
    facts = json.loads(ok("info", tmp_path / "ds", "--json"))
    assert facts["versions"] == [1]
    assert [f["fidelity"] for f in facts["fidelities"]] == [1, 2, 3, 4, 5]
    assert facts["fidelities"][-1]["of_full"] == 1
    assert sum(facts["bytes"]["groups"]) / 8 == facts["fidelities"][-1]["bytes_per_image"]
    assert facts["fidelities"][0]["epoch_dollars"] > 0


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_info_needs_no_images_and_no_percentiles(tmp_path, layout):
    draft = Draft.of(stored(layout))
    [measured] = draft.manifest.quality
    draft.manifest = replace(draft.manifest, quality=(replace(measured, percentiles={}),))
    draft.parts = []
    put_all(open_store(str(tmp_path)), draft.encode())
    facts = json.loads(ok("info", tmp_path, "--json"))
    assert facts["n_images"] == facts["n_records"] == 0
    assert [f["ms_ssim"] for f in facts["fidelities"]] == list(measured.mean)
    assert {f["ms_ssim_p05"] for f in facts["fidelities"]} == {None}
    assert "0 images in 0 records" in ok("info", tmp_path)


def test_info_takes_the_chunks_of_each_region_from_its_run(tmp_path):
    draft = Draft.of(stored("zarr"))

    def fidelities():
        put_all(open_store(str(tmp_path)), draft.encode())
        return json.loads(ok("info", tmp_path, "--json"))["fidelities"]

    before = fidelities()
    for part in draft.parts:  # the same runs, in another order
        part.runs = part.runs[::-1]
        part.rows.records["object"] = len(part.runs) - 1 - part.rows.records["object"]
    assert fidelities() == before


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk_bytes", [100, 2**20])
def test_an_epoch_takes_no_more_than_info_says(photos, tmp_path, layout, k, chunk_bytes):
    options = pcrstore.Options(
        layout=layout, record_bytes=None, record_images=2, chunk_bytes=chunk_bytes
    )
    pcrstore.convert(str(photos), str(tmp_path / "ds"), options, workers=1)
    said = json.loads(ok("info", tmp_path / "ds", "--json"))["fidelities"][k - 1]
    free = pcrstore.CostModel(
        prices=pcrstore.Prices(name="free", per_get=0, per_byte=0, source="none"),
        link=pcrstore.Link(bandwidth=1, per_connection=1, latency=0, concurrency=1),
        per_second=1,
    )
    for cost in (DEFAULT_COST, free):  # with requests that cost nothing, few are merged
        ds = pcrstore.open(str(tmp_path / "ds"), cost=cost)
        assert len(list(ds.iter(k))) == 8
        assert ds.traffic.data_requests <= said["epoch_requests"]
        assert ds.traffic.data_bytes >= said["epoch_bytes"]
    assert ds.traffic.data_bytes == said["epoch_bytes"]


def test_ls_lists_in_stored_order_up_to_a_limit(photos, dataset):
    rows = [line.split() for line in ok("ls", dataset).splitlines()]
    assert [int(r[0]) for r in rows] == list(range(8))
    assert {r[3]: int(r[1]) for r in rows} == {
        p.relative_to(photos).as_posix(): p.stat().st_size for p in photos.rglob("*.jpg")
    }
    assert all(r[3].startswith(f"{r[2]}/") for r in rows)
    assert ok("ls", dataset, "--limit", 2).splitlines() == ok("ls", dataset).splitlines()[:2]
    assert json.loads(ok("ls", dataset, "--limit", 0, "--json")) == {"n_images": 8, "images": []}


def test_cat_gives_the_source_file_back(photos, dataset):
    source = (photos / "cat/2.jpg").read_bytes()
    args = ("cat", dataset, "cat/2.jpg", "--fidelity", "original")
    assert run(*args).stdout_bytes == source
    told = json.loads(ok(*args, "--json"))
    assert told["sha256"] == hashlib.sha256(source).hexdigest()
    assert (told["key"], told["class"]) == ("cat/2.jpg", "cat")
    assert run("cat", dataset, told["index"], "--fidelity", "original").stdout_bytes == source


def test_cat_takes_a_number_for_a_key_on_request(tmp_path):
    files = {"7": encoded(1, (16, 16)), "a.jpg": encoded(2, (16, 16))}
    write_sources(tmp_path / "in", files)
    ok("convert", tmp_path / "in", tmp_path / "ds", "--workers", 1)
    args = ("cat", tmp_path / "ds", "7", "--fidelity", "original")
    assert run(*args).exit_code == 2
    assert run(*args, "--key").stdout_bytes == files["7"]


def test_cat_writes_no_image_to_a_terminal(dataset):
    terminal, side = os.openpty()
    process = subprocess.run(
        [sys.executable, "-m", "pcrstore", "cat", str(dataset), "0"],
        cwd=REPOSITORY,
        stdout=side,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(side)
    os.close(terminal)
    assert process.returncode == 2
    assert b"garble the terminal" in process.stderr


def test_verify_finds_a_flipped_bit(dataset, photos, tmp_path):
    assert ok("verify", dataset).startswith("no fault: 8 images")
    ok("convert", photos, tmp_path / "ds", "--workers", 1)
    victim = next((tmp_path / "ds").rglob("*.pcr"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    result = run("verify", tmp_path / "ds")
    assert result.exit_code == 1
    assert victim.name in result.stdout
    told = run("verify", tmp_path / "ds", "--json")
    assert told.exit_code == 1
    assert not json.loads(told.stdout)["ok"]


def test_export_gives_every_source_file_back(photos, dataset, tmp_path):
    args = ("export", dataset, tmp_path / "out", "--fidelity", "original", "--json")
    assert json.loads(ok(*args))["n_files"] == 8
    for path in photos.rglob("*.jpg"):
        assert (tmp_path / "out" / path.relative_to(photos)).read_bytes() == path.read_bytes()


def test_a_bucket_works_like_a_folder(photos, s3_server, tmp_path):
    options = tmp_path / "options.json"
    options.write_text(json.dumps(s3_server.options))
    target = (s3_server.url, "--storage-options", f"@{options}")
    ok("convert", photos, s3_server.url, "--workers", 1, "--dst-storage-options", f"@{options}")
    assert "8 images" in ok("info", *target)
    assert ok("verify", *target).startswith("no fault")
    assert run("cat", *target, "dog/1.jpg", "--fidelity", "original").stdout_bytes == (
        (photos / "dog/1.jpg").read_bytes()
    )


# Arguments

CLASSES = {
    "list": '["dog", "cat", "emu"]',
    "map": '{"cat": 1, "dog": 0, "emu": 2}',
    "text": "dog\ncat\n\nemu\n",
    "text-windows": "\ufeffdog\r\ncat\r\nemu\r\n",
}


@pytest.mark.parametrize("text", CLASSES.values(), ids=CLASSES)
def test_classes_come_from_a_file(text, photos, tmp_path):
    file = tmp_path / "classes"
    file.write_text(text, encoding="utf-8", newline="")
    ok("convert", photos, tmp_path / "ds", "--workers", 1, "--classes", file)
    assert pcrstore.open(str(tmp_path / "ds")).classes == ("dog", "cat", "emu")


def test_classes_come_from_another_dataset_or_a_bucket(dataset, s3_server, tmp_path):
    small = write_sources(tmp_path / "small", {"dog/a.jpg": encoded(1, (16, 16))})
    ok("convert", small, tmp_path / "a", "--workers", 1, "--classes", dataset)
    assert pcrstore.open(str(tmp_path / "a")).classes == ("cat", "dog")
    options = json.dumps(s3_server.options)
    open_store(s3_server.url, s3_server.options).put("names.txt", b"emu\ndog\n")
    target = (f"{s3_server.url}/b", "--dst-storage-options", options)
    names = f"{s3_server.url}/names.txt"
    ok("convert", small, *target, "--workers", 1, "--classes", names)
    ds = pcrstore.open(f"{s3_server.url}/b", s3_server.options)
    assert (ds.classes, ds.labels.tolist()) == (("emu", "dog"), [1])


BAD_CLASSES = {
    "gap": '{"cat": 0, "dog": 2}',
    "twice": '["cat", "cat"]',
    "id-as-text": '{"cat": "0"}',
    "true-for-one": '{"cat": 0, "dog": true}',
    "numbers": "[1, 2]",
    "nothing": "\n",
    "broken": '["cat"',
    "deep": "[" * 100_000,
    "binary": "\udcff",
}


@pytest.mark.parametrize("text", BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_bad_classes_are_a_wrong_call(text, photos, tmp_path):
    file = tmp_path / "classes"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = run("convert", photos, tmp_path / "ds", "--classes", file)
    assert result.exit_code == 2
    assert "classes: " in result.stderr


def test_a_huge_file_of_classes_is_refused_unread(photos, tmp_path):
    file = tmp_path / "classes"
    file.touch()
    os.truncate(file, 1 << 40)  # a hole
    result = run("convert", photos, tmp_path / "ds", "--classes", file)
    assert result.exit_code == 2
    assert "classes: expected at most 268435456 bytes" in " ".join(result.stderr.split())


SIZES = {
    "1000": 1000,
    "4mib": 4 * 2**20,
    "4 MiB": 4 * 2**20,
    "10gb": 10**10,
    "512kb": 512_000,
    "512k": 512_000,
    "1.5kib": 1536,
    "7b": 7,
    "1tib": 2**40,
}


@pytest.mark.parametrize(("text", "n_bytes"), SIZES.items(), ids=SIZES)
def test_sizes(text, n_bytes):
    assert params.SIZE.convert(text, None, None) == n_bytes


@pytest.mark.parametrize("text", ["", "mib", "-1", "4x", "1e3", "4mibb", "4ib", "\u0664mb"])
def test_bad_sizes(text):
    with pytest.raises(click.BadParameter, match=r"such as .10gb"):
        params.SIZE.convert(text, None, None)


def test_a_script_file_is_read(photos, tmp_path):
    script = tmp_path / "two.txt"
    script.write_text("[dc]\n*: 0-0, 0, 0\n[rest]\n*: 1-63, 0, 0\n")
    ok("convert", photos, tmp_path / "ds", "--workers", 1, "--script", script)
    assert pcrstore.open(str(tmp_path / "ds")).n_groups == 2


def test_convert_options_reach_the_dataset(tmp_path):
    args = ("--record-images", 2, "--object-bytes", "4kb", "--no-shuffle", "--split-dirs")
    tree = tmp_path / "in"
    write_sources(
        tree / "val", {"cat/x.jpg": encoded(5, (16, 16)), "dog/y.jpg": encoded(6, (8, 8))}
    )
    write_sources(tree / "test", {"cat/z.jpg": encoded(7, (16, 16))})
    ok("convert", tree, tmp_path / "ds", *args, "--workers", 2)
    ds = pcrstore.open(str(tmp_path / "ds"))
    assert ds.keys == ["test/cat/z.jpg", "val/cat/x.jpg", "val/dog/y.jpg"]
    assert ds.manifest.splits == ("test", "val")
    assert ds.classes == ("cat", "dog")
    assert ds.n_records == 2


def test_splits_taken_for_classes_are_told_on_stderr(tmp_path):
    folders = {f"{split}/cat/x.jpg": encoded(5, (16, 16)) for split in ("train", "val")}
    write_sources(tmp_path / "in", folders)
    done = spawned("convert", tmp_path / "in", tmp_path / "ds", "--json", text=True)
    assert done.stderr.count("train, val become classes") == 1
    assert "--split-dirs" in done.stderr
    assert json.loads(done.stdout)["n_images"] == 2


def test_every_option_of_convert_reaches_the_conversion(monkeypatch):
    asked = {}

    def asks(source, destination, options, **rest):
        asked.update(rest, source=source, destination=destination, options=options)
        raise errors.OptionError("seen")

    monkeypatch.setattr(sys.modules["pcrstore.cli.convert"], "convert_folder", asks)
    flags = "--layout zarr --script spec5 --workers 3 --record-bytes 1mib --object-bytes 2mib"
    more = "--on-error encode --encode-quality 71 --split-dirs --no-shuffle --seed 9 --restart"
    stores = ["--src-storage-options", '{"a": 1}', "--dst-storage-options", '{"b": 2}']
    assert run("convert", "from", "to", *flags.split(), *more.split(), *stores).exit_code == 2
    assert asked.pop("options") == pcrstore.Options(
        layout="zarr",
        script="spec5",
        record_bytes=2**20,
        object_bytes=2**21,
        policy="encode",
        encode_quality=71,
        split_dirs=True,
        shuffle=False,
        seed=9,
    )
    del asked["progress"]
    assert asked == {
        "source": "from",
        "destination": "to",
        "workers": 3,
        "source_options": {"a": 1},
        "destination_options": {"b": 2},
        "restart": True,
    }
    run("convert", "from", "to")
    assert asked["options"] == pcrstore.Options()


LIGHT = """
import sys
from pcrstore.cli import main
try:
    main(sys.argv[1:])
finally:
    wings = {name.split(".")[1] for name in sys.modules if name.startswith("pcrstore.")}
    libraries = {name.split(".")[0] for name in sys.modules}
    heavy = {"conversion", "demo", "exports", "maintenance", "preview", "loader", "torch", "ray"}
    print(sorted(wings & heavy | libraries & {"moto", "torch", "ray", "zarr"}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["info"], ["ls"], ["cat", "--json", "0"]])
def test_a_command_loads_no_library_of_another(words, dataset):
    words = [words[0], str(dataset), *reversed(words[1:])]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_numbers_for_people():
    assert [size(n) for n in (0, 1, 999, 1000, 999_600, 12_345_678)] == [
        *("0 bytes", "1 byte", "999 bytes", "1.00 kB", "1.00 MB", "12.3 MB")
    ]
    assert [dollars(x) for x in (0, 4.6e-4, 0.0987, 0.1, 1234.5)] == [
        *("$0.00", "$0.00046", "$0.099", "$0.10", "$1234.50")
    ]


@pytest.mark.parametrize("command", [["info"], ["ls"], ["ls", "--json"], ["cat", "--json", "0"]])
def test_a_full_disk_for_the_output_is_one_clear_line(command, dataset):
    words = [command[0], str(dataset), *reversed(command[1:])]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pcrstore", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "pcrstore: error: cannot write the output: No space left on device"
    ]
