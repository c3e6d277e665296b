"""The Ray source: its tasks run here, then on a cluster of two nodes on this machine."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from flows import convert_to, photos, write_tree

import pcrstore
from pcrstore import NotFoundError, OptionError, Options
from pcrstore.format.names import manifest_name
from pcrstore.storage.open import open_store
from pcrstore.testing import RecordingStore

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from ray.cluster_utils import Cluster  # noqa: E402 - only where ray is installed

from pcrstore.ray import PcrstoreDatasource, read_pcrstore  # noqa: E402 - as above

pytestmark = pytest.mark.filterwarnings(
    # Ray's own context sets options that Ray deprecates.
    "ignore::DeprecationWarning:ray.data.context"
)

OPTIONS = Options(record_images=3, object_bytes=20_000, split_dirs=True)
FILES = {f"{'val' if i % 4 else 'train'}/{k}": v for i, (k, v) in enumerate(photos(40).items())}
N = len(FILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    root = tmp_path_factory.mktemp("ray")
    pcrstore.convert(str(write_tree(root / "photos", FILES)), str(root / "ds"), OPTIONS, workers=1)
    return str(root / "ds")


def tables(url, n_tasks=4, limit=None, **arguments):
    """What the tasks of a source yield when they are run in this process, task by task."""
    tasks = PcrstoreDatasource(url, **arguments).get_read_tasks(n_tasks, limit)
    return [[table for table in task() if len(table)] for task in tasks]


def rows(url, **arguments):
    """All rows of a source, in order."""
    return [row for task in tables(url, **arguments) for table in task for row in table.to_pylist()]


def expected(ds, k, positions):
    """Rows as the dataset itself gives them."""
    names = dict(enumerate(ds.splits))
    return [
        {"key": key, "label": label, "split": names.get(split), "image": image}
        for key, label, split, image in zip(
            ds.column("key", positions),
            ds.column("label", positions).tolist(),
            ds.column("split", positions).tolist(),
            ds.fetch(positions, k),
            strict=True,
        )
    ]


@pytest.mark.parametrize("n_tasks", [1, 2, 5, 13, 14, 15, 100])
@pytest.mark.parametrize("k", [1, 5])
def test_tasks_read_each_image_once_and_in_order(folder, n_tasks, k):
    ds = pcrstore.open(folder)
    assert ds.n_records == 14
    assert rows(folder, n_tasks=n_tasks, fidelity=k) == expected(ds, k, range(N))
    tasks = PcrstoreDatasource(folder, fidelity=k).get_read_tasks(n_tasks)
    # Tasks are balanced by bytes, so near the number of records a large one stands for two.
    assert len(tasks) == min(n_tasks, 14) or n_tasks in (13, 14, 15)
    assert len(tasks) <= n_tasks


def test_metadata_says_what_comes(folder):
    some = {"where": {"label": "cat"}}
    for arguments in ({}, some, {"decode": True}, {"decode": True, **some}, {"fidelity": 1}):
        source = PcrstoreDatasource(folder, **arguments)
        tasks = source.get_read_tasks(3)
        got = [list(task()) for task in tasks]
        assert [t.metadata.num_rows for t in tasks] == [sum(map(len, ts)) for ts in got]
        held = sum(t.nbytes for ts in got for t in ts)
        assert source.estimate_inmemory_data_size() == pytest.approx(held, rel=0.3)
        assert sum(t.metadata.size_bytes for t in tasks) == pytest.approx(held, rel=0.3)
        assert all(
            table.schema == t.schema for t, ts in zip(tasks, got, strict=True) for table in ts
        )


LABELS = {"cat": 0, "dog": 1}
WHERE = {
    "split": ({"split": "train"}, lambda split, _: split == "train"),
    "class": ({"label": "cat"}, lambda _, label: label == 0),
    "id": ({"label": 1}, lambda _, label: label == 1),
    "numpy-id": ({"label": np.int64(1)}, lambda _, label: label == 1),
    "names-and-ids": ({"label": ["cat", 1]}, lambda _, label: label in (0, 1)),
    "array": ({"label": np.array([0, 1])}, lambda _, label: label in (0, 1)),
    "set": ({"split": {"train", "val"}}, lambda *_: True),
    "no-label": ({"label": -1}, lambda _, label: label == -1),
    "each": ({"label": lambda c: c == 1, "split": "val"}, lambda *of: of == ("val", 1)),
    "two": ({"split": "val", "label": "dog"}, lambda split, label: (split, label) == ("val", 1)),
    "format": ({"format": "jpeg"}, lambda *_: True),
    "nothing": ({"format": "opaque"}, lambda *_: False),
    "empty": ({"label": []}, lambda *_: False),
    "all": ({}, lambda *_: True),
    "function": (
        lambda c: (c["split"] == "val") & (c["label"] == 1),
        lambda split, label: (split, label) == ("val", 1),
    ),
}


@pytest.mark.parametrize(("where", "matches"), WHERE.values(), ids=WHERE)
def test_a_predicate_chooses_rows(folder, where, matches):
    ds = pcrstore.open(folder)
    everything = expected(ds, 3, range(N))
    wanted = [row for row in everything if matches(row["split"], row["label"])]
    assert rows(folder, fidelity=3, where=where) == wanted


def test_a_predicate_is_over_keys_and_numbers_too(folder):
    keys = pcrstore.open(folder).keys
    assert [r["key"] for r in rows(folder, where={"key": keys[5]})] == [keys[5]]
    found = rows(folder, where=lambda c: np.char.endswith(c["key"], "7.jpg"))
    assert [r["key"] for r in found] == [k for k in keys if k.endswith("7.jpg")]
    assert len(rows(folder, where={"width": [48, 7]})) == N
    assert not rows(folder, where={"width": 7})


def test_a_predicate_is_pushed_down(tmp_path):
    """Records without a match are not read, nor are columns that nobody named."""
    store = RecordingStore(open_store(str(tmp_path / "ds")))
    convert_to(store, write_tree(tmp_path / "photos", FILES), OPTIONS)
    key = pcrstore.open(store).keys[7]
    store.clear()
    source = PcrstoreDatasource(store, where={"key": key})
    assert not of_records(store)
    [task] = source.get_read_tasks(10)
    [[row]] = [table.to_pylist() for table in task()]
    assert row["key"] == key
    ds = pcrstore.open(store)
    read = sum(r.n_bytes for r in of_records(store))
    assert read == ds.plan([7]).n_bytes < ds.plan(range(N)).n_bytes / 5


def of_records(store):
    """Requests for images."""
    return [r for r in store.requests if r.name.startswith("objects/")]


def test_only_columns_that_are_named_are_read(tmp_path):
    store = RecordingStore(open_store(str(tmp_path / "ds")))
    convert_to(store, write_tree(tmp_path / "photos", FILES), OPTIONS)

    def cost(where):
        store.clear()
        PcrstoreDatasource(store, where=where)
        return sum(r.n_bytes for r in store.requests)

    by_label = cost({"label": 0})
    assert by_label < cost({"key": "x"})
    assert cost(lambda c: c["label"] == 0) == by_label
    assert cost(lambda c: c["label"] * c["label"] == 0) == by_label


BAD = {
    "column-of-a-function": ({"where": lambda c: c["colour"] == 0}, "label.*, got colour"),
    "column": ({"where": {"colour": "red"}}, "colour"),
    "class": ({"where": {"label": "fox"}}, "fox"),
    "split": ({"where": {"split": ["train", "test"]}}, "'test'"),
    "format": ({"where": {"format": "png"}}, "'png'"),
    "mask-shape": ({"where": lambda c: c["label"][1:] == 0}, "40 booleans"),
    "mask-kind": ({"where": lambda c: c["label"]}, "40 booleans"),
    "extra-column": ({"columns": ["colour"]}, "colour"),
    "fidelity": ({"fidelity": 6}, r"1\.\.5"),
    "original": ({"fidelity": "original"}, "original"),
    "engine": ({"engine": "curl"}, "engine"),
    "version": ({"version": 0}, "version"),
    "where-number": ({"where": 5}, "where must be a mapping"),
    "where-nothing": ({"where": ""}, "where must be a mapping"),
    "where-by-number": ({"where": {1: 2}}, "where must name columns by text, got 1"),
    "columns-number": ({"columns": 5}, "columns must be names in a list, got 5"),
    "columns-text": ({"columns": "key"}, "columns must be names in a list, got 'key'"),
    "columns-nothing": ({"columns": ""}, "columns must be names in a list, got ''"),
    "columns-mapping": ({"columns": {"key": 1}}, "columns must be names in a list"),
    "columns-of-numbers": ({"columns": ["key", 5]}, "columns must be names in a list"),
    "decode-text": ({"decode": "x"}, "decode must be true or false, got 'x'"),
    "decode-number": ({"decode": 1}, "decode must be true or false, got 1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_before_ray_runs(folder, arguments, message):
    with pytest.raises(pcrstore.UsageError, match=message):
        PcrstoreDatasource(folder, **arguments)


@pytest.mark.parametrize("url", [None, 5, b"x", "a\0b"], ids=repr)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(OptionError, match="url must"):
        read_pcrstore(url)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True], ids=repr)
def test_a_number_of_tasks_that_is_none_is_refused_before_ray_runs(folder, n):
    with pytest.raises(OptionError, match="override_num_blocks must be an integer of at least 1"):
        read_pcrstore(folder, override_num_blocks=n)


def test_a_dataset_that_is_not_there_is_refused(tmp_path, folder):
    with pytest.raises(NotFoundError):
        PcrstoreDatasource(tmp_path)
    with pytest.raises(NotFoundError, match="no version 2"):
        PcrstoreDatasource(folder, version=2)
    with pytest.raises(OptionError, match="memory"):
        PcrstoreDatasource("memory://photos")


def test_columns_are_added(folder):
    ds = pcrstore.open(folder)
    names = ["width", "format", "source_sha256", "source_bytes", "key"]
    found = rows(folder, columns=names, fidelity=1)
    assert list(found[0]) == ["key", "label", "split", *names[:-1], "image"]
    for i in (0, N - 1):
        assert found[i]["source_sha256"] == ds.column("source_sha256", [i])[0].tolist()
        assert found[i]["source_bytes"] == ds.column("source_bytes", [i])[0]
        assert found[i]["format"] == "jpeg"
        assert found[i]["width"] == 48


def test_decoding_gives_the_pixels_of_read(folder):
    ds = pcrstore.open(folder)
    images = [
        image
        for task in tables(folder, decode=True, fidelity=2, where={"split": "val"})
        for table in task
        for image in table["image"].chunk(0).to_numpy()
    ]
    positions = np.flatnonzero(ds.column("split") == ds.splits.index("val"))
    for image, pixels in zip(images, ds.read(positions, 2), strict=True):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
def test_a_limit_of_rows_is_kept_and_counted(folder, limit):
    tasks = PcrstoreDatasource(folder).get_read_tasks(4, limit)
    found = [sum(map(len, task())) for task in tasks]
    assert found == [min(limit, len(r)) for r in map(flat, tables(folder))]
    assert found == [task.metadata.num_rows for task in tasks]


def flat(task):
    return [row for table in task for row in table.to_pylist()]


def test_blocks_end_where_they_would_be_large(monkeypatch, folder):
    """Spans are whole records, never over the bound but for a record that is."""
    monkeypatch.setattr("pcrstore.ray.datasource._BLOCK_BYTES", 3 * 3 * 48 * 40 * 2 + 10_000)
    [task] = tables(folder, n_tasks=1, decode=True)
    assert [len(table) for table in task] == [6] * 6 + [4]
    monkeypatch.setattr("pcrstore.ray.datasource._SPAN_BYTES", 1)
    [task] = tables(folder, n_tasks=1)
    assert [len(table) for table in task] == [3] * 13 + [1]
    where = {"split": "val", "label": "cat"}
    cut = rows(folder, where=where)
    monkeypatch.undo()
    assert cut == rows(folder, where=where)


def test_a_version_is_pinned_when_planned(tmp_path, folder):
    url = shutil.copytree(folder, tmp_path / "ds")
    source = PcrstoreDatasource(url)
    open_store(str(url)).put(manifest_name(2), b"not a manifest")
    assert sum(len(table) for task in source.get_read_tasks(2) for table in task()) == N
    with pytest.raises(pcrstore.FormatError):
        PcrstoreDatasource(url)
    assert sum(len(t) for task in tables(url, version=1) for t in task) == N


def test_a_relative_path_means_this_folder(monkeypatch, folder):
    monkeypatch.chdir(Path(folder).parent)
    tasks = PcrstoreDatasource("ds").get_read_tasks(2)
    monkeypatch.chdir("/")
    assert sum(len(b) for t in tasks for b in t()) == N


def test_secrets_are_not_shown(folder, s3_server, caplog):
    publish(folder, s3_server)
    caplog.set_level(0)
    options = {**s3_server.options, "key": "AKIAHUNTER", "secret": "hunter2"}
    source = PcrstoreDatasource(s3_server.url, storage_options=options)
    shown = [repr(source), str(source), repr(source._source), repr(vars(source)), caplog.text]
    for task in source.get_read_tasks(2):
        shown += [repr(task), repr(task.read_fn), repr(task.metadata)]
        assert list(task())
    assert "hunter" not in " ".join(shown).lower()


def publish(folder, server):
    """Copy a dataset into the server's bucket."""
    here, there = open_store(folder), open_store(server.url, server.options)
    for entry in here.list(""):
        there.put(entry.name, here.get(entry.name, max_bytes=entry.n_bytes))


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one core each, on the loopback; what they start is gone afterwards."""
    before = descendants()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        folder = stack.enter_context(  # sockets want a short path
            tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        )
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray takes 127.0.0.1 for "the address that others see", and looks for the cluster there.
        head, other = "127.0.0.2", "127.0.0.3"
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        nodes = Cluster()
        stack.callback(nodes.shutdown)
        stack.callback(ray.shutdown)
        nodes.add_node(node_ip_address=head, **node)
        nodes.add_node(node_ip_address=other, **node)
        ray.init(
            address=nodes.address,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address=head,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield nodes
    deadline = time.monotonic() + 10
    while (left := descendants() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def descendants():
    """Processes below this one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found, todo = set(), [os.getpid()]
    while todo:
        parent = todo.pop()
        born = {pid for pid, of in parents.items() if of == parent}
        todo += born
        found |= born
    return found


@pytest.mark.slow
def test_two_nodes_read_a_bucket_once(cluster, folder, s3_server):
    publish(folder, s3_server)
    options = {**s3_server.options, "key": "AKIAHUNTER", "secret": "hunter2"}
    found = read_pcrstore(s3_server.url, fidelity=2, storage_options=options, override_num_blocks=8)
    assert found.count() == N

    def with_node(batch):
        time.sleep(0.3)  # as long as the other node takes to start its worker
        node = ray.get_runtime_context().get_node_id()
        return {**batch, "node": np.full(len(batch["key"]), node)}

    got = found.map_batches(with_node, batch_size=None).take_all()
    assert len({row.pop("node") for row in got}) == len(cluster.list_all_nodes()) == 2
    ds = pcrstore.open(folder)
    assert sorted(got, key=by_key) == sorted(expected(ds, 2, range(N)), key=by_key)
    assert sum(len(row["image"]) for row in got) < sum(map(len, ds.fetch(range(N))))
    logs = [
        p.read_bytes() for p in Path(os.environ["RAY_TMPDIR"]).rglob("logs/**/*") if p.is_file()
    ]
    assert len(logs) > 10
    assert not [log for log in logs if b"hunter" in log.lower()]


def by_key(row):
    return row["key"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_folder_is_read_by_predicate_and_decoded(folder):
    ds = pcrstore.open(folder)
    found = read_pcrstore(
        Path(folder).as_uri(),
        fidelity=3,
        where={"split": "val", "label": ["cat"]},
        columns=["width"],
        decode=True,
        override_num_blocks=3,
    )
    wanted = np.flatnonzero(
        (ds.column("split") == ds.splits.index("val")) & (ds.labels == ds.classes.index("cat"))
    )
    assert found.count() == len(wanted) > 0
    got = {row["key"]: row for row in found.take_all()}
    # In the order in which tasks end: Ray was not told to keep theirs.
    assert sorted(got) == sorted(ds.column("key", wanted))
    for key, pixels in zip(ds.column("key", wanted), ds.read(wanted, 3), strict=True):
        assert got[key]["image"].dtype == np.uint8
        np.testing.assert_array_equal(got[key]["image"], pixels)
        assert (got[key]["width"], got[key]["split"], got[key]["label"]) == (48, "val", 0)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_empty_choice_and_a_limit_are_fine(folder):
    assert read_pcrstore(folder, where={"label": []}).take_all() == []
    assert len(read_pcrstore(folder).limit(5).take_all()) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_damage_reaches_the_driver_under_its_own_name(folder, tmp_path):
    url = shutil.copytree(folder, tmp_path / "ds")
    largest = max((url / "objects").iterdir(), key=lambda p: p.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    with pytest.raises(pcrstore.ChecksumError):
        read_pcrstore(url).take_all()
