"""Exported files are what was stored, and no name leaves the folder."""

import hashlib
import ntpath
import os
import posixpath
from dataclasses import replace
from pathlib import Path

import pytest
from flows import (
    RECORD,
    DictStore,
    Pictures,
    convert_to,
    dataset,
    memory,
    photo,
    photos,
    png,
    put_all,
)

import pcrstore
from pcrstore.errors import DatasetExistsError, StoreError
from pcrstore.exports.folder import export, safe_name
from pcrstore.storage.open import open_store

HOSTILE = [
    "..",
    "../x.jpg",
    "../../../../../../tmp/x.jpg",
    "/etc/passwd",
    "//etc/passwd",
    "a/../../x.jpg",
    "a/./b.jpg",
    "./x.jpg",
    ".",
    "a//b.jpg",
    "a/",
    "/",
    "",
    "...",
    ".../x.jpg",
    "..\\x.jpg",
    "..\\..\\windows\\system32\\x.dll",
    "C:\\x.jpg",
    "C:x.jpg",
    "c:/x.jpg",
    "\\\\server\\share\\x.jpg",
    "\\\\?\\C:\\x.jpg",
    "con",
    "CON.jpg",
    "a/nul.txt",
    "com1.jpg",
    "LPT9",
    "aux/x.jpg",
    "prn.tar.gz",
    "x\0.jpg",
    "x\n.jpg",
    "x\r\n.jpg",
    "\x1b[31mred\x1b[0m.jpg",
    "\x7f.jpg",
    "%2e%2e/x.jpg",
    "%2E%2E/x.jpg",
    "..%2fx.jpg",
    "%00.jpg",
    "%",
    "~/x.jpg",
    "~root/x.jpg",
    "$HOME/x.jpg",
    "-rf",
    "n" * 255 + ".jpg",
    "n" * 4000 + ".jpg",
    "\u732b" * 200 + ".jpg",
    "e\u0301.jpg",
    "\u00e9.jpg",
    "\u202egpj.x",
    "\udcff\udcfe.jpg",
    "a" + "/b" * 300 + "/c.jpg",
    "x.jpg/y.jpg",
    "x.jpg",
]


@pytest.mark.parametrize("key", HOSTILE, ids=lambda k: ascii(k)[:30])
def test_no_name_leaves_the_folder(tmp_path, key):
    for module in (posixpath, ntpath):
        path = module.normpath(safe_name(key))
        assert not module.isabs(path)
        assert path.replace("\\", "/").split("/")[0] != ".."
        assert not module.splitdrive(path)[0]
    name = safe_name(key)
    assert "\0" not in name
    assert "\\" not in name
    assert all(0 < len(os.fsencode(p)) <= 255 for p in name.split("/"))
    assert (tmp_path / name).resolve().is_relative_to(tmp_path)


def test_safe_names_are_distinct_and_plain_ones_unchanged():
    names = [safe_name(k) for k in HOSTILE]
    assert len(set(names)) == len(names)
    for key in ("cat/1.jpg", "a b/c+d.jpg", "\u732b/x.jpg", "100%.jpg", "x.y.z", "a=b&c.jpg"):
        assert safe_name(key) == key


def made(files, policy="opaque"):
    """A dataset of these keys, whatever a file system or bucket thinks of them."""
    store = DictStore()
    convert_to(store, Pictures(files), replace(RECORD, policy=policy))
    return dataset(store)


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_hostile_names_all_arrive_inside_the_folder(tmp_path):
    files = {key: photo(i % 40) + b"%d" % i for i, key in enumerate(HOSTILE)}
    ds = made(files)
    for key in ("", "n" * 4000 + ".jpg"):  # a dataset has no such names
        del files[key]
    around = tmp_path / "around"
    target = around / "deep" / "er"
    report = export(ds, str(target), fidelity="original")
    assert report.n_files == len(files) == len(ds)
    found = everything(around)
    assert all(name.startswith("deep/er/") for name in found)
    digests = sorted(hashlib.sha256(d).hexdigest() for d in found.values())
    assert digests == sorted(hashlib.sha256(d).hexdigest() for d in files.values())
    assert report.n_bytes == sum(map(len, files.values()))


def test_a_file_and_a_folder_of_one_name_both_arrive(tmp_path):
    files = {"a": photo(1), "a/b": photo(2), "a/b/c.jpg": photo(3), "z/y": photo(4), "z": photo(5)}
    ds = made(files)
    export(ds, str(tmp_path / "out"), fidelity="original")
    assert sorted(everything(tmp_path / "out").values()) == sorted(files.values())


@pytest.mark.parametrize("fidelity", [1, 3, "full", "original"])
def test_files_are_what_fetch_gives(tmp_path, fidelity):
    files = {**photos(), "dog/p.png": png(1)}
    ds = made(files)
    seen = []
    report = export(ds, str(tmp_path / "out"), fidelity=fidelity, progress=seen.append)
    assert everything(tmp_path / "out") == dict(
        zip(ds.keys, ds.fetch(range(len(ds)), fidelity), strict=True)
    )
    assert sum(seen) == report.n_files == len(files)
    if fidelity == "original":
        assert everything(tmp_path / "out") == files


def test_an_encoded_image_is_named_by_what_it_is(tmp_path):
    ds = made({"a/p.png": png(1), "a/q.jpg": png(2)}, policy="encode")
    export(ds, str(tmp_path / "jpeg"), fidelity=2)
    assert set(everything(tmp_path / "jpeg")) == {"a/p.png.jpg", "a/q.jpg"}
    export(ds, str(tmp_path / "source"), fidelity="original")
    assert everything(tmp_path / "source") == {"a/p.png": png(1), "a/q.jpg": png(2)}


def test_a_folder_that_holds_something_is_refused(tmp_path):
    ds = made({"x.jpg": photo(1)})
    (tmp_path / "mine").write_bytes(b"precious")
    with pytest.raises(DatasetExistsError):
        export(ds, str(tmp_path))
    assert everything(tmp_path) == {"mine": b"precious"}
    with pytest.raises(StoreError):
        export(ds, str(tmp_path / "mine"))
    (tmp_path / "empty").mkdir()
    assert export(ds, str(tmp_path / "empty")).n_files == 1


def test_export_reads_any_store(tmp_path):
    source, url = memory(), memory()
    put_all(open_store(source), photos(4))
    pcrstore.convert(source, url, RECORD, workers=1)
    export(pcrstore.open(url), str(tmp_path / "out"), fidelity="original")
    assert everything(tmp_path / "out") == photos(4)
    assert Path(tmp_path / "out").stat().st_mode & 0o700 == 0o700


def test_a_numbered_name_fits_too(tmp_path):
    long = "n" * 255
    ds = made({f"{long}/x.jpg": photo(1), long: photo(2)})
    export(ds, str(tmp_path / "out"), fidelity="original")
    assert sorted(everything(tmp_path / "out").values()) == sorted([photo(1), photo(2)])
