"""Names that are not Unicode text, or too long for a key, become keys and classes, or problems."""

from dataclasses import replace

import pytest
from flows import (
    CUT,
    RECORD,
    DictStore,
    Pictures,
    convert_to,
    dataset,
    originals,
    photo,
    write_tree,
)

import pcrstore
from pcrstore.conversion.texts import unicode_name
from pcrstore.errors import DatasetExistsError, SourceError, UnsupportedJpegError
from pcrstore.maintenance.verifier import verify

OPTIONS = {"record": RECORD, "zarr": CUT}

NAMES = {
    # id: (name, as a key)
    "text": ("a 50 %.jpg", "a 50 %.jpg"),
    "looks-escaped": ("a%FF.jpg", "a%FF.jpg"),
    "bytes": ("a\udcff.jpg", "a%FF.jpg"),
    "percent-and-bytes": ("50 %\udc80\u732b", "50 %25%80\u732b"),
    "lone-high": ("\ud800", "%ED%A0%80"),
    "lone-low": ("x\udfff", "x%ED%BF%BF"),
    "reversed-pair": ("\udc00\ud800", "%ED%B0%80%ED%A0%80"),
    "astral": ("\U0001f431.jpg", "\U0001f431.jpg"),
}


@pytest.mark.parametrize(("name", "key"), NAMES.values(), ids=NAMES)
def test_a_name_is_escaped_where_it_is_not_text(name, key):
    assert unicode_name(name) == key
    assert unicode_name(key) == key


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_files_and_classes_of_any_name_come_back(tmp_path, options):
    """Two names that escape alike are two images of one key; such classes are one class."""
    files = {"\udcff/a.jpg": photo(1), "%FF/b.jpg": photo(2), "%FF/\udcfe": photo(3)}
    files |= {"%25FF/%FE": photo(4), "\udcff\udcfe/\u732b.jpg": photo(5)}
    store = DictStore()
    report = convert_to(store, write_tree(tmp_path, files), options)
    ds = dataset(store)
    keys = sorted(zip(ds.keys, ds.fetch(range(5), fidelity="original"), strict=True))
    assert keys == sorted((unicode_name(k), data) for k, data in files.items())
    assert ds.classes == ("%25FF", "%FF", "%FF%FE")
    named = sorted((s.key, ds.classes[s.label]) for s in ds)
    assert named == sorted((unicode_name(k), unicode_name(k.split("/")[0])) for k in files)
    assert [key for key, _ in named].count("%25FF/%FE") == 2
    assert verify(store).faults == ()
    again = convert_to(store, tmp_path, options)
    assert replace(again, already=False, seconds=0) == replace(report, seconds=0)


def test_a_source_of_ones_own_may_name_anything(tmp_path):
    names = ["\ud800", "\udfff", "\udcff", "ok"]
    source = Pictures(
        {name: photo(i) for i, name in enumerate(names)},
        labels=dict(zip(names, names, strict=True)),
        splits=dict.fromkeys(names, "\ud800"),
    )
    pcrstore.convert(source, tmp_path / "ds", RECORD, workers=1)
    ds = pcrstore.open(tmp_path / "ds")
    assert originals(ds) == {unicode_name(k): v for k, v in source.files.items()}
    assert ds.manifest.splits == ("%ED%A0%80",)
    assert sorted(ds.classes) == sorted(map(unicode_name, names))
    assert pcrstore.convert(source, tmp_path / "ds", RECORD, workers=1).already


def test_a_reason_may_hold_a_name_that_is_not_text():
    class Locked(Pictures):
        def read(self, file):
            if file.key.startswith("\udcff"):
                raise UnsupportedJpegError(f"{file.key}: locked")
            return super().read(file)

    source = Locked({"\udcff.jpg": photo(1), "a.jpg": photo(2)})
    store = DictStore()
    report = convert_to(store, source, replace(RECORD, policy="skip"))
    assert [(p.key, p.reason) for p in report.problems] == [("%FF.jpg", "%FF.jpg: locked")]
    assert convert_to(store, source, replace(RECORD, policy="skip")).problems == report.problems


LENGTHS = {
    # id: key, and whether it fits
    "at-bound": ("k" * 1024, True),
    "over": ("k" * 1025, False),
    "bytes-at-bound": ("\u00e9" * 512, True),
    "bytes-over": ("\u00e9" * 512 + "k", False),
    "escaped-at-bound": ("\udcff" * 341 + "k", True),
    "escaped-over": ("\udcff" * 341 + "kk", False),
}


@pytest.mark.parametrize("policy", ["raise", "skip", "opaque", "encode"])
@pytest.mark.parametrize(("key", "fits"), LENGTHS.values(), ids=LENGTHS)
def test_a_key_has_at_most_1024_bytes_under_every_policy(key, fits, policy):
    source, store = Pictures({key: photo(1), "a.jpg": photo(2)}), DictStore()
    options = replace(RECORD, policy=policy)
    if policy == "raise" and not fits:
        with pytest.raises(SourceError, match="the name must have 1 to 1024 bytes, got 102"):
            convert_to(store, source, options)
        assert store.list("manifests") == []
        return
    report = convert_to(store, source, options)
    assert [p.outcome for p in report.problems] == ([] if fits else ["skipped"])
    assert originals(dataset(store)).keys() == {"a.jpg", *([unicode_name(key)] if fits else [])}
    assert verify(store).faults == ()


def test_an_escaped_class_is_other_content_than_another():
    files = {"a.jpg": photo(1), "b.jpg": photo(2)}
    store = DictStore()
    convert_to(store, Pictures(files, labels={"a.jpg": "\udcff"}), RECORD)
    with pytest.raises(DatasetExistsError):
        convert_to(store, Pictures(files, labels={"a.jpg": "\udcfe"}), RECORD)
