"""A conversion that dies at any instant goes on to the same bytes, and nobody sees half of it."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from flows import (
    CUT,
    LAYOUTS,
    RECORD,
    DictStore,
    MortalStore,
    Pictures,
    WatchedSource,
    content,
    convert_to,
    dataset,
    folder,
    originals,
    padded,
    photo,
    photos,
    png,
    write_tree,
)

import pcrstore
from pcrstore.conversion.journal import Journal
from pcrstore.dataset.versions import newest_version
from pcrstore.errors import PcrstoreError, SourceChangedError, SourceError, TransientStoreError
from pcrstore.storage.local import LocalStore
from pcrstore.storage.open import open_store
from pcrstore.testing import Fault, FaultyStore, StoreKilled


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("source"), photos())


@pytest.fixture(params=LAYOUTS)
def options(request):
    return LAYOUTS[request.param]


def straight(tree, options):
    """What a conversion that nothing interrupts leaves."""
    store = new_store()
    convert_to(store, tree, options)
    return content(store)


def new_store():
    return DictStore()


def n_operations(tree, options):
    store = MortalStore(new_store())
    convert_to(store, tree, options)
    return store.n


def die(store, tree, options, at, **how):
    """Convert until storage operation `at`; say whether it came to that."""
    mortal = MortalStore(store, at, **how)
    try:
        convert_to(mortal, tree, options)
    except StoreKilled:
        return True
    return mortal.dead


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_any_operation_and_going_on_gives_the_same_bytes(tree, options, after):
    expected = straight(tree, options)
    n = n_operations(tree, options)
    assert n > 10
    for at in range(n):
        store = new_store()
        assert die(store, tree, options, at, after=after)
        if newest_version(store):  # visible: then all of it is
            assert originals(dataset(store)) == photos()
        convert_to(store, tree, options)
        assert content(store) == expected, f"operation {at}"


def test_dying_again_while_going_on_gives_the_same_bytes(tree, options):
    expected = straight(tree, options)
    n = n_operations(tree, options)
    for first in range(3, n, 7):
        store = new_store()
        die(store, tree, options, first)
        at = first % 5 + 1
        while die(store, tree, options, at):
            at += 3
        assert content(store) == expected, f"operation {first}"


def test_a_lost_reply_at_any_operation_ends_well_or_in_an_error_that_a_rerun_cures(tree, options):
    expected = straight(tree, options)
    n = n_operations(tree, options)
    for at in range(n):
        store = new_store()
        try:
            convert_to(FaultyStore(store, {at: Fault.LOST_REPLY}), tree, options)
        except TransientStoreError:
            convert_to(store, tree, options)
        assert content(store) == expected, f"operation {at}"


def test_what_an_earlier_run_finished_is_not_built_again(tree):
    store = new_store()
    n = n_operations(tree, RECORD)
    die(store, tree, RECORD, n - 9)
    source = WatchedSource(folder(tree))
    report = convert_to(store, source, RECORD)
    assert report.n_resumed == 11
    assert source.read_keys == []


def test_an_array_is_built_again_from_its_last_stored_chunk_alone(tree):
    store = new_store()
    n = n_operations(tree, CUT)
    n_side = sum("zarr.json" in e.name or "/c/" in e.name for e in _side(tree))
    die(store, tree, CUT, n - n_side - 12)
    source = WatchedSource(folder(tree))
    report = convert_to(store, source, CUT)
    assert report.n_resumed > 0
    assert 0 < len(source.read_keys) < 11
    assert originals(dataset(store)) == photos()


def _side(tree):
    store = new_store()
    convert_to(store, tree, CUT)
    return [e for e in store.list("zarr") if "/group_" not in e.name and "/restore/" not in e.name]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: (t / "dog/000.jpg").write_bytes(photo(77)), "dog/000.jpg changed"),
        (lambda t: (t / "dog/000.jpg").unlink(), "dog/000.jpg is gone"),
        (lambda t: (t / "cat/new.jpg").write_bytes(photo(78)), "cat/new.jpg is new"),
        (lambda t: os.utime(t / "cat/001.jpg", ns=(0, 0)), "cat/001.jpg changed"),
    ],
    ids=["changed", "gone", "new", "touched"],
)
def test_a_changed_source_is_named_and_restart_begins_again(tmp_path, options, change, says):
    tree = write_tree(tmp_path / "source", photos())
    store = new_store()
    die(store, tree, options, 6)
    change(tree)
    with pytest.raises(SourceChangedError, match=says):
        convert_to(store, tree, options)
    assert newest_version(store) == 0
    convert_to(store, tree, options, restart=True)
    assert store.list("staging") == []
    want = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*.jpg")}
    assert originals(dataset(store)) == want


def test_another_policy_reuses_the_clean_units(tmp_path):
    files = {**photos(), "cat/bad.jpg": png()}
    tree = write_tree(tmp_path / "source", files)
    store = new_store()
    with pytest.raises(SourceError, match=r"cat/bad\.jpg"):
        convert_to(store, tree, RECORD)
    source = WatchedSource(folder(tree))
    report = convert_to(store, source, replace(RECORD, policy="opaque"))
    read = set(source.read_keys)
    assert "cat/bad.jpg" in read
    assert len(read) < 8
    assert report.n_resumed == len(files) - len(read)
    assert originals(dataset(store)) == files
    assert store.list("staging") == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_under_each_policy_leaves_nothing_in_staging(tmp_path, layout):
    tree = write_tree(tmp_path / "source", {**photos(), "cat/bad.jpg": png()})
    store = new_store()
    with pytest.raises(SourceError):
        convert_to(store, tree, LAYOUTS[layout])
    convert_to(store, tree, replace(LAYOUTS[layout], policy="skip"))
    assert store.list("staging") == []


def test_a_note_that_is_damaged_is_done_again(tree, options):
    expected = straight(tree, options)
    n = n_operations(tree, options)
    spoilers = [lambda d: d[:5], lambda _: b"", lambda d: d[:-1], lambda d: d[:-1] + b"\xff\xfe"]
    for spoil in spoilers:
        store = new_store()
        die(store, tree, options, n - 10)
        notes = [e.name for e in store.list("staging") if "unit" in e.name]
        assert len(notes) == 3
        store.put(notes[1], spoil(store.get(notes[1], max_bytes=2**31)))
        convert_to(store, tree, options)
        assert content(store) == expected


def test_a_finished_conversion_sweeps_what_a_kill_after_its_commit_left(tree, options):
    store = new_store()
    n = n_operations(tree, options)
    die(store, tree, options, n - 3)
    assert newest_version(store) == 1
    assert store.list("staging")
    assert convert_to(store, tree, options).already
    assert store.list("staging") == []


def test_two_runs_at_once_agree(tree, options):
    """One runs in whole between any two operations of the other."""
    expected = straight(tree, options)
    n = n_operations(tree, options)

    for at in range(1, n, 3):
        store = new_store()

        class Interleaved(MortalStore):
            def _do(self, work):
                mine, self.n = self.n, self.n + 1
                if mine == self._at:
                    convert_to(self.store, tree, options)
                return work()

        outer = Interleaved(store, at)
        report = convert_to(outer, tree, options)
        assert report.n_images == 11
        left = {k: v for k, v in content(store).items() if not k.startswith("staging")}
        assert left == expected, f"operation {at}"
        assert store.list("staging") == [], f"operation {at}"


CHILD = """
import sys
import pcrstore
from flows import LAYOUTS, Pictures, photos
if __name__ == "__main__":
    source, destination, layout, workers = sys.argv[1:]
    print("begun", flush=True)
    if source == "pictures":
        source = Pictures(photos(400))
    pcrstore.convert(source, destination, LAYOUTS[layout], workers=int(workers))
"""


def child(tmp_path, source, destination, layout, workers):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    tests = Path(__file__).parents[1]
    folders = [str(tests / "support"), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(folders)
    command = [sys.executable, str(script), str(source), str(destination), layout, str(workers)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def alive(group):
    """Processes of a process group that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def gone(group, seconds):
    deadline = time.monotonic() + seconds
    while alive(group):
        if time.monotonic() > deadline:
            os.killpg(group, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


def wait_for(destination, pattern, process):
    deadline = time.monotonic() + 30
    while not list(Path(destination).rglob(pattern)):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """So many files that a signal comes in time; they are links, so that they cost nothing."""
    root = write_tree(tmp_path_factory.mktemp("many"), photos(5))
    for i in range(600):
        os.link(root / "dog/000.jpg", root / f"dog/more-{i}.jpg")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["record", "zarr-cut"])
def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path, many, layout):
    expected = straight(many, LAYOUTS[layout])
    destination = tmp_path / "out"
    for round_ in range(4):
        process = child(tmp_path, many, destination, layout, 1)
        came = wait_for(destination, f"unit-{20 * round_ + 3:06d}*", process)
        assert came or round_
        process.kill()
        process.communicate()
    pcrstore.convert(str(many), str(destination), LAYOUTS[layout], workers=1)
    assert content(open_store(str(destination))) == expected
    left = [p.name for p in destination.rglob("*") if "tmp" in p.name or "staging" in p.name]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["record", "zarr-cut"])
def test_a_source_of_ones_own_goes_on_after_a_kill(tmp_path, layout):
    source, destination = Pictures(photos(400)), tmp_path / "out"
    process = child(tmp_path, "pictures", destination, layout, 2)
    assert wait_for(destination, "unit-000020*", process)
    process.kill()
    process.communicate()
    watched = WatchedSource(source)
    report = convert_to(open_store(str(destination)), watched, LAYOUTS[layout])
    assert report.n_resumed > 0
    assert len(watched.read_keys) < 400
    assert content(open_store(str(destination))) == straight(source, LAYOUTS[layout])


def test_a_source_whose_labels_changed_is_not_gone_on_with():
    store, source = new_store(), Pictures(photos(), labels={"cat/001.jpg": "cat"})
    die(store, source, RECORD, 6)
    with pytest.raises(SourceChangedError, match="the source changed since"):
        convert_to(store, replace(source, labels={"cat/001.jpg": "dog"}), RECORD)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path, many):
    process = child(tmp_path, many, tmp_path / "out", "record", 2)
    assert wait_for(tmp_path / "out", "unit-000002*", process)
    assert len(alive(process.pid)) >= 3
    process.kill()
    process.communicate()
    assert gone(process.pid, 5)


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["to-the-group", "to-the-parent"])
def test_an_interrupt_ends_a_conversion_in_five_seconds(tmp_path, many, sent):
    process = child(tmp_path, many, tmp_path / "out", "record", 2)
    assert wait_for(tmp_path / "out", "unit-000002*", process)
    send = os.killpg if sent == "to-the-group" else os.kill
    send(process.pid, signal.SIGINT)
    try:
        assert process.wait(timeout=5) != 0
    finally:
        process.kill()
        process.communicate()
    assert gone(process.pid, 1)
    pcrstore.convert(str(many), str(tmp_path / "out"), RECORD, workers=1)
    assert content(open_store(str(tmp_path / "out"))) == straight(many, RECORD)


def test_a_listing_with_names_that_are_not_text_is_noted(tmp_path):
    tree = write_tree(tmp_path / "source", {**photos(5), "cat/\udcff\udcfe.jpg": photo(60)})
    store = new_store()
    die(store, tree, RECORD, 5)
    (tree / "loose.jpg").write_bytes(padded(photo(1), 5000))
    with pytest.raises(SourceChangedError, match=r"loose\.jpg changed"):
        convert_to(store, tree, RECORD)


def test_a_damaged_listing_is_an_error_of_ours(tree):
    store = new_store()
    die(store, tree, RECORD, 5)
    name = next(e.name for e in store.list("staging") if e.name.endswith("listing"))
    store.put(name, b"not a listing")
    other = replace(RECORD, policy="skip")
    other_listing = Pictures(photos(3)).list()
    journal = Journal(store, options=name.split("/")[1], content="x", layout="record", n_groups=5)
    with pytest.raises(PcrstoreError):
        journal.begin(other_listing, restart=False)
    convert_to(store, tree, other)
    assert originals(dataset(store)) == photos()


def orphan(folder, name=".pcrstore-tmp-7-0123456789abcdef0123456789abcdef"):
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return path


def test_a_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path):
    store = LocalStore(str(tmp_path))
    store.put("objects/a", b"whole")
    left = [orphan(tmp_path), orphan(tmp_path / "staging/x"), orphan(tmp_path / "objects")]
    kept = [
        orphan(tmp_path, ".pcrstore-tmp-notes"),
        orphan(tmp_path, "x.pcrstore-tmp-7-0123456789abcdef0123456789abcdef"),
    ]
    assert store.sweep() == 3
    assert [p.exists() for p in left + kept] == [False] * 3 + [True] * 2
    assert not (tmp_path / "staging").exists()
    assert store.get("objects/a", max_bytes=1000) == b"whole"
    assert store.sweep() == 0


def test_a_sweep_leaves_a_living_writer_alone(tmp_path):
    store = LocalStore(str(tmp_path))
    with store._temporary("a", b"data") as (temporary, path):
        assert LocalStore(str(tmp_path)).sweep() == 0
        temporary.replace(path)
    assert store.get("a", max_bytes=1000) == b"data"


def test_sweeps_and_puts_at_once_lose_nothing(tmp_path):
    store = LocalStore(str(tmp_path))
    stop = threading.Event()

    def sweep():
        while not stop.is_set():
            LocalStore(str(tmp_path)).sweep()

    with ThreadPoolExecutor(2) as pool:
        swept = [pool.submit(sweep) for _ in range(2)]
        try:
            for i in range(150):
                store.put(f"p/{i}", b"%d" % i)
                assert store.create(f"c/{i}", b"%d" % i)
        finally:
            stop.set()
        for future in swept:
            future.result()
    assert len(store.list("")) == 300


def test_without_locks_age_decides(monkeypatch, tmp_path):
    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr("pcrstore.storage.local.fcntl.flock", no_locks)
    store = LocalStore(str(tmp_path))
    store.put("a", b"data")
    young, old = orphan(tmp_path / "x"), orphan(tmp_path / "y")
    os.utime(old, (0, 0))
    assert store.sweep() == 1
    assert young.exists()
    assert not old.exists()


def test_a_noted_object_that_is_gone_is_made_again(tmp_path):
    """A bucket's lifecycle rule may have removed it between two runs."""
    tree = write_tree(tmp_path / "in", {**photos(), "cat/bad.jpg": b"no photo"})
    store = DictStore()
    with pytest.raises(SourceError):
        convert_to(store, tree, RECORD)
    gone = next(name for name in store.objects if name.startswith("objects/"))
    store.delete([gone])
    convert_to(store, tree, replace(RECORD, policy="skip"))
    assert gone in store.objects
    expected = DictStore()
    convert_to(expected, tree, replace(RECORD, policy="skip"))
    assert content(store) == content(expected)


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    """Each worker imports the script, and would convert as well."""
    write_tree(tmp_path / "in", photos(3))
    script = tmp_path / "script.py"
    script.write_text(
        f"import pcrstore\npcrstore.convert({str(tmp_path / 'in')!r}, "
        f"{str(tmp_path / 'out')!r}, workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__"' in done.stderr.splitlines()[-1]
