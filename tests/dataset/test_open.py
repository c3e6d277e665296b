"""Opening finds the version asked for, or says what is there."""

import pytest
from flows import RECORD, DictStore, photo, photos, write_tree
from small_datasets import stored

import pcrstore
from pcrstore.dataset.open import dataset_in
from pcrstore.errors import NotFoundError, OptionError
from pcrstore.storage.open import open_store
from pcrstore.testing import RecordingStore


def test_opening_is_one_list_and_one_get():
    store = RecordingStore(DictStore(stored()))
    dataset_in(store)
    assert [r.op for r in store.requests] == ["list", "get"]


def test_credentials_are_not_shown(s3_server):
    pytest.importorskip("s3fs")
    options = {**s3_server.options, "key": "canary-key", "secret": "canary-secret"}
    with pytest.raises(NotFoundError) as e:
        pcrstore.open(s3_server.url, options)
    assert "canary" not in str(e.value)


def test_versions_are_pinned():
    store = DictStore(stored())
    ds = dataset_in(store)
    name = next(n for n in store.objects if n.startswith("manifests/"))
    assert ds.versions == [1]
    store.delete([name])
    assert ds.version == 1
    assert len(ds.fetch([0], 1)) == 1


def test_what_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="no pcrstore dataset"):
        pcrstore.open(str(tmp_path / "nothing"))
    open_store(str(tmp_path)).put("x.jpg", photo(1))
    with pytest.raises(NotFoundError, match="no manifest"):
        pcrstore.open(str(tmp_path))
    with pytest.raises(NotFoundError):
        pcrstore.open(str(tmp_path), version=3)


def test_a_path_object_is_a_url(tmp_path):
    tree = write_tree(tmp_path / "in", photos(3))
    pcrstore.convert(tree, tmp_path / "out", RECORD, workers=1)
    assert len(pcrstore.open(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        (0, OptionError, "at least 1"),
        (-1, OptionError, "at least 1"),
        (2**32 - 1, OptionError, "at most 4294967294, got 4294967295"),
        (2**63, OptionError, "at most 4294967294"),
        (2**32 - 2, NotFoundError, "no version 4294967294 there"),
        (2, NotFoundError, "no version 2 there; the newest is 1"),
    ],
)
def test_a_version_that_cannot_be_is_said_to_be(tmp_path, version, error, message):
    tree = write_tree(tmp_path / "in", photos(3))
    pcrstore.convert(tree, tmp_path / "out", RECORD, workers=1)
    with pytest.raises(error, match=message):
        pcrstore.open(tmp_path / "out", version=version)
