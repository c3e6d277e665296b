"""A source is listed whole: every file has a line, and what cannot be read says why."""

import os
import re

import pytest
from flows import (
    DictStore,
    convert_to,
    folder,
    listed,
    memory,
    originals,
    photo,
    put_all,
    write_tree,
)

import pcrstore
from pcrstore import Options
from pcrstore.conversion.sources.folder import FolderSource
from pcrstore.errors import (
    AccessDeniedError,
    NotFoundError,
    OptionError,
    SourceChangedError,
    SourceError,
)
from pcrstore.storage.open import open_store


def keys(listing):
    return [f.key for f in listing.files]


FILES = {"b/2.jpg": b"22", "a/1.jpg": b"1", "top.jpg": b"t", "a/deep/er/3.jpg": b"333"}


def test_files_are_ordered_by_key_and_labelled_by_folder(tmp_path):
    found = listed(write_tree(tmp_path, FILES))
    assert keys(found) == sorted(FILES)
    assert {f.key: f.label for f in found.files} == {
        "a/1.jpg": "a",
        "a/deep/er/3.jpg": "a",
        "b/2.jpg": "b",
        "top.jpg": None,
    }
    assert {f.key: f.n_bytes for f in found.files} == {k: len(d) for k, d in FILES.items()}
    assert found.splits == ()


def test_splits_are_the_first_folder(tmp_path):
    found = listed(write_tree(tmp_path, {**FILES, "a/x/y.jpg": b"y"}), split_dirs=True)
    assert {f.key: (f.split, f.label) for f in found.files} == {
        "a/1.jpg": ("a", None),
        "a/deep/er/3.jpg": ("a", "deep"),
        "a/x/y.jpg": ("a", "x"),
        "b/2.jpg": ("b", None),
        "top.jpg": (None, None),
    }
    assert found.splits == ("a", "b")


LIKELY = {
    "both": ("train validation", "train validation"),
    "all-names": ("dev test testing train training val valid validation",) * 2,
    "any-case": ("Train VAL", "Train VAL"),
    "one-alone": ("train", "train"),
    "two-and-more": ("extra test train", "test train"),
    "one-of-many": ("cat dog train", ""),
    "none": ("cat dog", ""),
    "in-part": ("trains test1", ""),
    "no-class": ("", ""),
}


@pytest.mark.parametrize(("folders", "likely"), LIKELY.values(), ids=LIKELY)
def test_classes_that_look_like_splits_are_told(folders, likely, tmp_path, caplog):
    files = {f"{name}/cat/1.jpg": b"1" for name in folders.split()}
    tree = write_tree(tmp_path, {**files, "top.jpg": b"t"})
    listed(tree)
    told = [m.partition(": ")[2].partition(" become classes")[0] for m in caplog.messages]
    assert told == ([", ".join(likely.split())] if likely else [])
    caplog.clear()
    listed(tree, split_dirs=True)
    assert caplog.messages == []


def test_the_same_tree_is_listed_alike_on_disk_and_in_a_bucket(tmp_path):
    url = memory()
    put_all(open_store(url), FILES)
    there, here = listed(url), listed(write_tree(tmp_path, FILES))
    assert [(f.key, f.label, f.n_bytes) for f in there.files] == [
        (f.key, f.label, f.n_bytes) for f in here.files
    ]
    assert all(f.stamp for f in there.files)


def test_folders_that_consoles_make_are_no_files():
    store = DictStore({**FILES, "a/": b""})
    assert keys(FolderSource(store).list()) == sorted(FILES)


BUCKETS = {
    "a-marker-of-the-source": ({"": b""}, ()),
    "a-marker-of-a-class": ({"cat/": b""}, ()),
    "a-marker-without-its-slash": ({"cat": b""}, ()),
    "an-empty-class": ({"bird/": b"", "bird/owl/": b""}, ()),
    "a-doubled-slash": ({"cat//9.jpg": photo(9)}, ("cat//9.jpg",)),
    "a-slash-first": ({"/9.jpg": photo(9)}, ("/9.jpg",)),
    "a-marker-with-two-slashes": ({"cat//": b""}, ()),
    "a-dot": ({"cat/./9.jpg": photo(9)}, ("cat/./9.jpg",)),
    "two-dots": ({"../9.jpg": photo(9)}, ("../9.jpg",)),
    "a-file-with-the-name-of-a-folder": ({"cat": b"no image"}, ("cat",)),
    "an-empty-file": ({"cat/9.jpg": b""}, ("cat/9.jpg",)),
}
"""Keys below the source beside two photos -> those that fall under the error policy."""


@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
@pytest.mark.parametrize(("extra", "problems"), BUCKETS.values(), ids=BUCKETS)
def test_a_key_that_cannot_be_a_file_costs_no_other_file(
    s3_server, tmp_path, extra, problems, engine
):
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    pytest.importorskip("obstore")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    good = {"cat/1.jpg": photo(1), "dog/2.jpg": photo(2)}
    for key, data in {**good, **extra}.items():
        client.put_object(Bucket=s3_server.bucket, Key=f"photos/{key}", Body=data)
    client.close()
    url = f"s3://{s3_server.bucket}/photos"

    source = folder(url, storage_options=s3_server.options, engine=engine)

    def convert(name, **options):
        return convert_to(open_store(str(tmp_path / name)), source, Options(**options))

    report = convert("skipped", policy="skip")
    assert tuple(p.key for p in report.problems) == problems
    ds = pcrstore.open(str(tmp_path / "skipped"))
    assert originals(ds) == good
    assert ds.classes == ("cat", "dog")
    if problems:
        with pytest.raises(SourceError, match=re.escape(problems[0])):
            convert("refused", policy="raise")
    else:
        assert convert("refused", policy="raise").n_images == 2


@pytest.mark.parametrize("engine", ["obstore", "fsspec"])
def test_a_marker_at_the_destination_is_no_part_of_the_dataset(s3_server, tmp_path, engine):
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    pytest.importorskip("obstore")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    for key in ("sets/", "sets/v1/"):
        client.put_object(Bucket=s3_server.bucket, Key=key, Body=b"")
    client.close()
    source = write_tree(tmp_path, {"cat/1.jpg": photo(1)})
    url, options = f"s3://{s3_server.bucket}/sets/v1", s3_server.options
    store = open_store(url, options, engine=engine)
    assert store.list("") == []
    for already in (False, True):
        assert convert_to(store, source, Options()).already == already
    checked = pcrstore.verify(url, storage_options=options, engine=engine)
    assert checked.faults == ()
    assert checked.unreferenced == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: (t / "a/1.jpg").write_bytes(b"12"),
        lambda t: os.utime(t / "a/1.jpg", ns=(5, 5)),
        lambda t: (t / "a/1.jpg").rename(t / "a/0.jpg"),
        lambda t: (t / "a/1.jpg").unlink(),
        lambda t: (t / "a/4.jpg").write_bytes(b""),
    ],
    ids=["size", "time", "name", "gone", "new"],
)
def test_the_fingerprint_changes_with_the_source(tmp_path, change):
    tree = write_tree(tmp_path, FILES)
    before = listed(tree).fingerprint
    assert listed(tree).fingerprint == before
    change(tree)
    assert listed(tree).fingerprint != before


def test_what_is_not_a_file_inside_is_a_problem(tmp_path):
    tree = write_tree(tmp_path / "in", FILES)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "inner").symlink_to(tree)
    (tree / "out").symlink_to(tmp_path / "secret")
    (tree / "up").symlink_to(tmp_path)
    (tree / "same").symlink_to(tree / "a/1.jpg")
    (tree / "nowhere").symlink_to("nothing")
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "pipe")
    problems = {f.key: f.problem for f in listed(tree).files if f.problem}
    assert set(problems) == {"out", "up", "nowhere", "loop", "pipe"}
    assert "leaves the source" in problems["out"]
    assert "leaves the source" in problems["up"]
    assert keys(listed(tmp_path / "inner")) == keys(listed(tree))  # the root may be a link


def test_a_prefix_of_the_roots_name_is_not_inside(tmp_path):
    tree = write_tree(tmp_path / "in", FILES)
    write_tree(tmp_path / "in-secret", {"x": b"x"})
    (tree / "out").symlink_to(tmp_path / "in-secret/x")
    assert next(f for f in listed(tree).files if f.key == "out").problem


def test_names_of_every_kind_are_listed(tmp_path):
    names = [
        "\udcff\udcfe.jpg",
        "n" * 255,
        "a b%20+c.jpg",
        "new\nline.jpg",
        "caf\u00e9",
        "-rf",
        "~",
    ]
    tree = write_tree(tmp_path, {f"c/{n}": b"x" for n in names})
    assert keys(listed(tree)) == sorted(f"c/{n}" for n in names)
    assert len(listed(tree).fingerprint) == 64


def test_hidden_files_are_counted(tmp_path):
    tree = write_tree(tmp_path, {**FILES, ".a": b"", "a/.b": b"", ".d/e/f.jpg": b""})
    assert listed(tree).n_hidden == 3
    assert keys(listed(tree)) == sorted(FILES)
    with pytest.raises(OptionError, match="2 hidden"):
        listed(write_tree(tmp_path / "x", {".a": b"", ".b": b""}))


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(NotFoundError):
        listed(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(photo(1))
    with pytest.raises(OptionError, match="got a file"):
        listed(tmp_path / "file")
    with pytest.raises(OptionError, match="no file"):
        listed(memory())


def test_a_folder_that_may_not_be_read_is_an_error_of_ours(monkeypatch, tmp_path):
    tree = write_tree(tmp_path, FILES)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("pcrstore.conversion.sources.local_files.os.scandir", refuse)
    with pytest.raises(AccessDeniedError, match="deep"):
        listed(tree)


def test_a_file_that_grew_beyond_any_limit_is_refused_unread(tmp_path):
    source = FolderSource(open_store(write_tree(tmp_path, {"a.jpg": b"12345"})))
    listing = source.list()
    os.truncate(tmp_path / "a.jpg", 1 << 40)  # a hole
    with pytest.raises(SourceChangedError, match=r"a\.jpg: was listed with 5 bytes, has more now"):
        source.read(listing.files[0])
