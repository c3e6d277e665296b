"""A folder becomes a dataset: the same bytes however it is run, no file lost without a word."""

import errno
import os
import socket
from dataclasses import replace

import numpy as np
import pytest
from flows import (
    CUT,
    HELD,
    RECORD,
    DictStore,
    Pictures,
    WatchedSource,
    arithmetic,
    content,
    convert_to,
    dataset,
    digest,
    folder,
    memory,
    originals,
    padded,
    photo,
    photos,
    png,
    put_all,
    write_tree,
)

import pcrstore
from pcrstore import Limits, Options
from pcrstore.conversion.packing import shuffled
from pcrstore.conversion.sources.folder import FolderSource
from pcrstore.dataset.versions import newest_version
from pcrstore.errors import (
    DatasetExistsError,
    NotFoundError,
    OptionError,
    PcrstoreError,
    SourceChangedError,
    SourceError,
)
from pcrstore.maintenance.verifier import verify
from pcrstore.storage.local import LocalStore
from pcrstore.storage.open import open_store

OPTIONS = {"record": RECORD, "zarr-held": HELD, "zarr-cut": CUT}


@pytest.fixture(params=OPTIONS)
def options(request):
    return OPTIONS[request.param]


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "source", photos())


def run(tree, options):
    store = DictStore()
    report = convert_to(store, tree, options)
    return report, store, dataset(store)


@pytest.mark.parametrize("layout", ["record", "zarr-cut"])
def test_threads_make_the_same_bytes(layout):
    source = memory()
    put_all(open_store(source), photos())
    found = []
    for workers in (1, 2, 5):
        url = memory()
        pcrstore.convert(source, url, OPTIONS[layout], workers=workers)
        found.append(content(open_store(url)))
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["record", "zarr-cut"])
def test_processes_make_the_same_bytes(tree, layout):
    found = []
    for workers in (1, 2):
        url = memory()
        pcrstore.convert(str(tree), url, OPTIONS[layout], workers=workers)
        found.append(content(open_store(url)))
    assert found[0] == found[1]


def test_the_source_is_never_written_to(tree, options):
    before = digest(tree)
    run(tree, options)
    assert digest(tree) == before


def test_every_file_comes_back(tree, options):
    report, _, ds = run(tree, options)
    assert originals(ds) == photos()
    assert report.problems == ()
    assert (report.n_files, report.n_images, report.n_records) == (11, 11, 4)
    assert report.source_bytes == sum(map(len, photos().values()))
    assert sum(n for n, _ in report.restore_kinds.values()) == 11
    assert sum(b for _, b in report.restore_kinds.values()) == report.restore_bytes


def test_labels_follow_folders(tree):
    _, _, ds = run(tree, RECORD)
    assert ds.classes == ("cat", "dog")
    by_key = dict(zip(ds.keys, ds.labels.tolist(), strict=True))
    assert by_key["loose.jpg"] == -1
    assert all(v == ("cat", "dog").index(k[:3]) for k, v in by_key.items() if k != "loose.jpg")


def test_given_classes_keep_their_ids_and_new_ones_follow(tree):
    options = replace(RECORD, classes=("zebra", "dog"))
    _, _, ds = run(tree, options)
    assert ds.classes == ("zebra", "dog", "cat")


def test_splits_are_a_column(tmp_path):
    files = {f"{s}/{c}/{i}.jpg": photo(i) for i, s in enumerate(("val", "train")) for c in "ab"}
    tree = write_tree(tmp_path / "s", {**files, "loose.jpg": photo(5), "val/x.jpg": photo(6)})
    _, _, ds = run(tree, replace(RECORD, split_dirs=True))
    assert ds.classes == ("a", "b")
    assert ds.manifest.splits == ("train", "val")
    split = dict(zip(ds.keys, ds.column("split"), strict=True))
    assert split == {
        **{k: (1 if k.startswith("val") else 0) for k in files},
        "loose.jpg": 255,
        "val/x.jpg": 1,
    }
    label = dict(zip(ds.keys, ds.labels, strict=True))
    assert label["val/x.jpg"] == label["loose.jpg"] == -1


@pytest.mark.parametrize("split_dirs", [False, True])
def test_splits_taken_for_classes_are_worth_one_warning(tmp_path, caplog, split_dirs):
    tree = write_tree(tmp_path, {f"{s}/test/1.jpg": photo(1) for s in ("validation", "train")})
    run(tree, replace(RECORD, split_dirs=split_dirs))
    said = [f"{tree.as_uri()}: train, validation become classes; if they are splits, "]
    assert [m[: len(said[0])] for m in caplog.messages] == ([] if split_dirs else said)


def test_order_is_that_of_the_keys_or_a_seeded_shuffle(tree):
    keys = sorted(photos())
    _, _, plain = run(tree, replace(RECORD, shuffle=False))
    assert plain.keys == keys
    for seed in (0, 7, -3):
        _, _, ds = run(tree, replace(RECORD, seed=seed))
        assert ds.keys == [keys[i] for i in shuffled(keys, seed=seed)]
        assert ds.keys != keys


def test_hidden_files_are_counted_and_left_out(tree):
    write_tree(tree, {".DS_Store": b"x", ".git/a.jpg": photo(1), "cat/._001.jpg": b"y"})
    report, _, ds = run(tree, RECORD)
    assert report.n_hidden == 3
    assert len(ds) == 11


@pytest.mark.parametrize(
    ("record_images", "object_bytes", "n_records", "n_objects"),
    [(1, 1, 11, 11), (11, 10**6, 1, 1), (10, 10**6, 2, 1), (12, 1, 1, 1)],
)
def test_records_and_objects_have_the_sizes_asked_for(
    tree, record_images, object_bytes, n_records, n_objects
):
    options = Options(record_images=record_images, object_bytes=object_bytes)
    report, _, ds = run(tree, options)
    assert (report.n_records, report.n_objects) == (n_records, n_objects)
    assert originals(ds) == photos()


@pytest.mark.parametrize(("limit", "n_records"), [(3000, 2), (2999, 4), (6000, 1), (1, 4)])
def test_a_record_closes_before_its_size_is_exceeded(tmp_path, limit, n_records):
    files = {f"a/{i}.jpg": padded(photo(i), 1500) for i in range(4)}
    tree = write_tree(tmp_path / "s", files)
    report, _, _ = run(tree, Options(record_bytes=limit))
    assert report.n_records == n_records


def test_again_is_nothing_to_do_and_other_content_is_refused(tree, options):
    report, store, _ = run(tree, options)
    before = dict(store.objects)
    again = convert_to(store, tree, options)
    assert again.already
    assert replace(again, already=False, seconds=0) == replace(report, seconds=0)
    assert store.objects == before
    for other in (
        replace(options, seed=9),
        replace(options, script="al3"),
        replace(options, policy="skip"),
        replace(options, record_images=2),
    ):
        with pytest.raises(DatasetExistsError):
            convert_to(store, tree, other)
    write_tree(tree, {"cat/more.jpg": photo(99)})
    with pytest.raises(DatasetExistsError):
        convert_to(store, tree, options)
    assert store.objects == before


def bad_tree(tmp_path):
    """Good files and every kind of bad one; returns the bad ones' keys and what is said of them."""
    tree = write_tree(tmp_path / "source", photos())
    bad = {
        "cat/text.jpg": (b"not an image at all", ""),
        "cat/cut.jpg": (photo(31)[:-300], ""),
        "cat/arithmetic.jpg": (arithmetic(), ""),
        "cat/picture.png": (png(3), ""),
        "cat/empty.jpg": (b"", ""),
        "cat/one.jpg": (b"\xff", ""),
        "cat/big.jpg": (padded(photo(32), 40_000), "limit"),
    }
    write_tree(tree, {k: data for k, (data, _) in bad.items()})
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(photo(50))
    (tree / "dog/dangling.jpg").symlink_to(tree / "nothing.jpg")
    (tree / "dog/loop.jpg").symlink_to(tree / "dog/loop.jpg")
    (tree / "dog/out.jpg").symlink_to(outside)
    (tree / "dog/folder-link").symlink_to(tree / "cat")
    os.mkfifo(tree / "dog/fifo.jpg")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tree / "dog/socket.jpg"))
    said = {k: words for k, (_, words) in bad.items()} | {
        "dog/dangling.jpg": "cannot be looked at",
        "dog/loop.jpg": "cannot be looked at",
        "dog/out.jpg": "leaves the source",
        "dog/folder-link": "link to a folder",
        "dog/fifo.jpg": "not a regular file",
        "dog/socket.jpg": "not a regular file",
    }
    good = {
        "dog/folder.jpg/inner.jpg": photo(33),
        "dog/\udcff\udcfe.jpg": photo(34),
        "dog/" + "n" * 251 + ".jpg": photo(35),
        "dog/Case.jpg": photo(36),
        "dog/case.jpg": photo(37),
        "dog/new\nline\t.jpg": photo(38),
        "caf\u00e9/\u732b.jpg": photo(39),
    }
    write_tree(tree, good)
    good["dog/%FF%FE.jpg"] = good.pop("dog/\udcff\udcfe.jpg")
    return tree, {**photos(), **good}, said


OUTCOME = {
    "opaque": dict.fromkeys(("text", "cut", "arithmetic", "picture", "one"), "opaque"),
    "encode": {"picture": "encoded"},
    "skip": {},
}


@pytest.mark.parametrize("policy", ["skip", "opaque", "encode"])
def test_each_bad_file_is_named_with_its_reason_and_outcome(tmp_path, options, policy):
    tree, good, said = bad_tree(tmp_path)
    options = replace(options, policy=policy, limits=Limits(max_bytes=30_000))
    before = digest(tree)
    report, store, ds = run(tree, options)
    assert digest(tree) == before
    problems = {p.key: p for p in report.problems}
    assert problems.keys() == said.keys()
    assert report.n_files == len(good) + len(said)
    kept = dict(good)
    for key, words in said.items():
        assert words in problems[key].reason
        assert problems[key].reason
        stem = key.split("/")[1].split(".")[0]
        allowed = {OUTCOME[policy].get(stem, "skipped")}
        if (policy, stem) == ("encode", "arithmetic"):
            allowed.add("encoded")  # where Pillow's libjpeg knows arithmetic coding
        assert problems[key].outcome in allowed, key
        if problems[key].outcome != "skipped":
            kept[key] = (tree / key).read_bytes()
    assert originals(ds) == kept
    assert [p.key for p in report.problems] == sorted(said)
    forms = {s.key: s.format for s in ds}
    assert {k for k, f in forms.items() if f != "jpeg"} == kept.keys() - good.keys()
    assert store.list("staging") == []
    again = convert_to(store, tree, options)
    assert again.problems == report.problems


def test_raise_lists_every_bad_file_and_commits_nothing(tmp_path, options):
    tree, _, said = bad_tree(tmp_path)
    store = DictStore()
    with pytest.raises(SourceError) as e:
        convert_to(store, tree, replace(options, limits=Limits(max_bytes=30_000)))
    assert newest_version(store) == 0
    for key in said:
        assert f"\n  {key}: " in str(e.value)
    assert f"{len(said)} of {len(said) + 18} files" in str(e.value)


def test_a_png_is_encoded_and_comes_back(tmp_path, options):
    tree = write_tree(tmp_path / "source", {"a/x.png": png(4), "a/y.jpg": photo(4)})
    _, _, ds = run(tree, replace(options, policy="encode", encode_quality=90))
    assert originals(ds) == {"a/x.png": png(4), "a/y.jpg": photo(4)}
    for k in (1, 3, "full"):
        for im in ds.read([0, 1], k):
            assert im.ndim == 3


def test_nothing_convertible_is_an_error(tmp_path, options):
    tree = write_tree(tmp_path / "source", {"a/x.jpg": b"text"})
    store = DictStore()
    with pytest.raises(SourceError, match=r"a/x\.jpg"):
        convert_to(store, tree, replace(options, policy="skip"))
    assert newest_version(store) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.unlink(), "gone"),
        (lambda p: p.write_bytes(photo(70) + b"x"), "bytes"),
    ],
    ids=["vanishes", "changes"],
)
def test_a_file_that_changes_after_the_listing_is_named(tree, change, says):
    class Changing(WatchedSource):
        def list(self):
            found = super().list()
            change(tree / "cat/001.jpg")
            return found

    store = DictStore()
    with pytest.raises(SourceChangedError, match=rf"cat/001\.jpg.*{says}"):
        convert_to(store, Changing(folder(tree)), replace(RECORD, policy="skip"))
    assert newest_version(store) == 0


def test_a_destination_in_the_source_is_refused(tree):
    before = digest(tree)
    for inside in (tree, tree / "out", f"{tree}/", f"file://{tree}/cat/out"):
        with pytest.raises(OptionError, match="inside the source"):
            pcrstore.convert(str(tree), str(inside), RECORD, workers=1)
    assert digest(tree) == before
    link = tree.parent / "link"
    link.symlink_to(tree)
    with pytest.raises(OptionError, match="inside the source"):
        pcrstore.convert(str(tree), str(link / "out"), RECORD, workers=1)


def test_no_source_is_an_error(tmp_path):
    with pytest.raises(NotFoundError):
        pcrstore.convert(str(tmp_path / "nothing"), memory(), workers=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="no file"):
        pcrstore.convert(str(tmp_path / "empty"), memory(), workers=1)
    with pytest.raises(OptionError, match="workers"):
        pcrstore.convert(str(tmp_path), memory(), workers=0)


def test_what_may_not_be_read_is_named(tmp_path):
    tree = write_tree(tmp_path / "source", photos())

    class Locked(LocalStore):
        def get(self, name, *, max_bytes):
            if name == "cat/001.jpg":
                raise self._translator.error("read", name, PermissionError(errno.EACCES, "no"))
            return super().get(name, max_bytes=max_bytes)

    source = FolderSource(Locked(str(tree)))
    report = convert_to(DictStore(), source, replace(RECORD, policy="opaque"))
    assert [(p.key, p.outcome) for p in report.problems] == [("cat/001.jpg", "skipped")]


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
@pytest.mark.parametrize("layout", ["record", "zarr-cut"])
def test_buckets_are_sources_and_destinations(s3_server, engine, layout):
    pytest.importorskip({"fsspec": "s3fs"}.get(engine, engine))
    base = f"s3://{s3_server.bucket}"
    o = s3_server.options
    put_all(open_store(f"{base}/in", o, engine=engine), photos(5))
    source = folder(f"{base}/in", storage_options=o, engine=engine)
    destination = open_store(f"{base}/out", o, engine=engine)
    report = convert_to(destination, source, OPTIONS[layout])
    assert report.n_images == 5
    assert originals(pcrstore.open(f"{base}/out", o, engine=engine)) == photos(5)
    assert verify(f"{base}/out", o).faults == ()
    names = [e.name for e in destination.list("")]
    assert not any(n.startswith(("staging", ".")) for n in names)


def test_a_failing_source_commits_nothing(tree):
    store = DictStore()
    with pytest.raises(PcrstoreError):
        convert_to(store, tree / "nothing", RECORD)
    assert store.objects == {}


def test_every_split_has_records_of_its_own(tmp_path):
    names = ["train", "val", "test"]
    files = {f"{names[i % 3]}/a/{i}.jpg": photo(i) for i in range(30)}
    options = Options(split_dirs=True, record_images=4)
    pcrstore.convert(
        str(write_tree(tmp_path / "src", files)), str(tmp_path / "ds"), options, workers=1
    )
    ds = pcrstore.open(str(tmp_path / "ds"))
    splits = np.asarray(ds.column("split"))
    # Runs of a split, mixed within: only the record at a border holds two.
    assert np.count_nonzero(np.diff(splits)) == 2
    keys = [k for k, s in zip(ds.keys, splits.tolist(), strict=True) if s == splits[0]]
    assert sorted(keys) != keys


@pytest.mark.parametrize("name", ["", "/", "pictures:"])
def test_a_source_of_ones_own_may_have_any_name(name, tmp_path):
    source = Pictures(photos(3), url=name)
    assert pcrstore.convert(source, tmp_path / "ds", RECORD, workers=1).n_images == 3


LABELLED = Pictures(
    {f"{i}.jpg": photo(i) for i in range(7)},
    labels={f"{i}.jpg": "odd" if i % 2 else "even" for i in range(6)},
    splits={f"{i}.jpg": "train" if i < 5 else "val" for i in range(7)},
)
"""Labels and splits that no folder says; the last picture has no class."""


def test_a_source_of_ones_own_says_labels_and_splits(tmp_path):
    report = pcrstore.convert(LABELLED, tmp_path / "ds", RECORD, workers=1)
    assert report.n_images == 7
    ds = pcrstore.open(tmp_path / "ds")
    assert originals(ds) == LABELLED.files
    labels = {s.key: ds.classes[s.label] for s in ds if s.label >= 0}
    assert labels == LABELLED.labels
    splits = {k: ds.manifest.splits[s] for k, s in zip(ds.keys, ds.column("split"), strict=True)}
    assert splits == LABELLED.splits
    assert pcrstore.convert(LABELLED, tmp_path / "ds", RECORD, workers=1).already


def test_worker_processes_read_a_source_of_ones_own(tmp_path):
    for workers in (1, 2):
        pcrstore.convert(LABELLED, tmp_path / f"{workers}", RECORD, workers=workers)
    one, two = (content(open_store(str(tmp_path / name))) for name in "12")
    assert one == two


@pytest.mark.parametrize(
    "change",
    [{"labels": {"0.jpg": "odd"}}, {"splits": {"0.jpg": "val"}}, {"labels": None}],
    ids=["label", "split", "no-labels"],
)
def test_other_labels_are_other_content(change):
    store = DictStore()
    convert_to(store, LABELLED, RECORD)
    with pytest.raises(DatasetExistsError):
        convert_to(store, replace(LABELLED, **change), RECORD)


@pytest.mark.parametrize(
    "settings",
    [{"source_options": {"anon": True}}, {"options": Options(split_dirs=True)}],
    ids=["source-options", "split-dirs"],
)
def test_settings_of_folders_are_refused_for_a_source_of_ones_own(settings):
    with pytest.raises(OptionError, match="Pictures has its own"):
        pcrstore.convert(LABELLED, memory(), workers=1, **settings)


@pytest.mark.parametrize("source", [7, None, b"photos"])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(OptionError, match="url must be a text or a path"):
        pcrstore.convert(source, memory(), workers=1)
