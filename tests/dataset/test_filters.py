"""Images are found by what the columns say of them, and a condition without meaning is refused."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import odd_columns
import pytest
from flows import RECORD, DictStore, convert_to, dataset, photo, photos, png, write_tree
from small_datasets import parts_of

from pcrstore.dataset.filters import conditions_of
from pcrstore.errors import OptionError
from pcrstore.testing import RecordingStore

FILES = {**photos(14), "dog/kept.png": png(1), "odd/not-an-image.jpg": b"text"}
SPLIT = {
    f"{('train', 'val')[i % 3 == 0]}/{key}": data for i, (key, data) in enumerate(FILES.items())
}


def stored(tree, **options):
    """The dataset of a folder in parts of seven images, and its store."""
    store = DictStore()
    with pytest.MonkeyPatch.context() as patch:
        parts_of(patch, 7)
        convert_to(store, tree, replace(RECORD, policy="opaque", **options))
    recording = RecordingStore(store)
    return dataset(recording), recording


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A dataset with splits in three parts, its store, and what each image is, by its key."""
    tree = write_tree(tmp_path_factory.mktemp("split"), SPLIT)
    ds, store = stored(tree, split_dirs=True)
    rows = []
    for key in ds.keys:
        split, *folders, name = key.split("/")
        kept = name in ("kept.png", "not-an-image.jpg")
        rows.append(
            {
                "key": key,
                "class": folders[0] if folders else None,
                "label": ds.classes.index(folders[0]) if folders else -1,
                "split": split,
                "format": "opaque" if kept else "jpeg",
                "width": 0 if kept else 48,
            }
        )
    return ds, store, rows


CONDITIONS = {
    "nothing": ({}, lambda _: True),
    "split": ({"split": "train"}, lambda r: r["split"] == "train"),
    "splits": ({"split": ["train", "val"]}, lambda _: True),
    "class": ({"label": "cat"}, lambda r: r["class"] == "cat"),
    "class-by-number": ({"label": 1}, lambda r: r["label"] == 1),
    "numpy-number": ({"label": np.int64(1)}, lambda r: r["label"] == 1),
    "fraction": ({"label": 0.5}, lambda _: False),
    "no-class": ({"label": None}, lambda r: r["class"] is None),
    "no-class-by-number": ({"label": -1}, lambda r: r["class"] is None),
    "no-class-or-one": ({"label": [None, "cat"]}, lambda r: r["class"] in (None, "cat")),
    "no-split": ({"split": None}, lambda _: False),
    "names-and-numbers": ({"label": ["cat", 1]}, lambda r: r["class"] == "cat" or r["label"] == 1),
    "set": ({"label": {"cat", "dog"}}, lambda r: r["class"] in ("cat", "dog")),
    "array": ({"label": np.array([0, 1])}, lambda r: r["label"] in (0, 1)),
    "none-of-them": ({"label": []}, lambda _: False),
    "array-of-one-number": ({"label": np.array(1)}, lambda r: r["label"] == 1),
    "array-of-text": ({"label": np.array(["cat"])}, lambda r: r["class"] == "cat"),
    "large-number": ({"label": 10**30}, lambda _: False),
    "range": ({"label": range(1, 9)}, lambda r: r["label"] >= 1),
    "format": ({"format": "opaque"}, lambda r: r["format"] == "opaque"),
    "number": ({"width": 48}, lambda r: r["width"] == 48),
    "key": ({"key": "train/cat/001.jpg"}, lambda r: r["key"] == "train/cat/001.jpg"),
    "both": (
        {"split": "val", "label": "dog"},
        lambda r: r["split"] == "val" and r["class"] == "dog",
    ),
    "never": ({"format": "opaque", "width": 48}, lambda _: False),
    "function": ({"label": lambda v: v % 2 == 0}, lambda r: r["label"] % 2 == 0),
    "function-of-text": (
        {"key": lambda keys: np.array([k.endswith("png") for k in keys])},
        lambda r: r["key"].endswith("png"),
    ),
    "function-and-value": (
        {"label": lambda v: v >= 0, "split": ["val"]},
        lambda r: r["label"] >= 0 and r["split"] == "val",
    ),
}


@pytest.mark.parametrize(("conditions", "meets"), CONDITIONS.values(), ids=CONDITIONS)
def test_find_gives_the_positions_that_meet_all_conditions(found, conditions, meets):
    ds, _, rows = found
    got = ds.find(**conditions)
    assert got.dtype == np.int64
    assert got.tolist() == [i for i, row in enumerate(rows) if meets(row)]


NOT_FOUND = {
    "column": ({"colour": 1}, "column must be one of"),
    "name-of-an-argument": ({"self": 1}, "column must be one of"),
    "bytes": ({"label": b"\0\1"}, r"the name of one, got b'\\x00\\x01'"),
    "mapping": ({"label": {0: 1}}, r"the name of one, got {0: 1}"),
    "list-in-a-list": ({"label": [[0]]}, r"the name of one, got \[0\]"),
    "array-of-rows": ({"label": np.array([[0, 1]])}, r"the name of one, got \[0, 1\]"),
    "class": ({"label": "cow"}, "label must be one of cat, dog, odd, got 'cow'"),
    "class-of-several": ({"label": ["cat", "cow"]}, "got 'cow'"),
    "split": ({"split": "test"}, "split must be one of train, val, got 'test'"),
    "format": ({"format": "gif"}, "format must be one of jpeg, opaque, encoded, got 'gif'"),
    "text-for-a-number": ({"width": "48"}, "width must be a number or the name of one, got '48'"),
    "none-for-a-number": ({"width": None}, "width must be a number or the name of one, got None"),
    "number-for-text": ({"key": 3}, "key must be text, got 3"),
    "mask-too-short": (
        {"label": lambda v: (v >= 0)[1:]},
        r"must return 16 booleans, got bool of shape \(15,\)",
    ),
    "no-mask": ({"label": lambda v: v}, "booleans, got int32"),
    "one-answer": ({"label": lambda _: True}, "booleans"),
    "table": ({"source_sha256": 3}, r"source_sha256 has values of shape \[32\]: give a function"),
}


@pytest.mark.parametrize(("conditions", "says"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_conditions_that_cannot_be_met_are_refused(found, conditions, says):
    ds, _, _ = found
    with pytest.raises(OptionError, match=says):
        ds.find(**conditions)


@pytest.mark.parametrize(
    "where", [None, {}, {"label": "cat"}, MappingProxyType({"label": 1})], ids=repr
)
def test_conditions_are_a_mapping_of_names(where):
    assert conditions_of(where) == dict(where or {})


NO_CONDITIONS = {
    "text": ("cat", "mapping of columns to what is wanted, such as .*, got 'cat'"),
    "empty-text": ("", "mapping of columns .*, got ''"),
    "list": (["label"], r"mapping of columns .*, got \['label'\]"),
    "empty-list": ([], r"mapping of columns .*, got \[\]"),
    "pairs": ([("label", "cat")], "mapping of columns"),
    "zero": (0, "mapping of columns .*, got 0"),
    "false": (False, "mapping of columns .*, got False"),
    "function": (len, "mapping of columns"),
    "number-for-a-name": ({1: 2}, "where must name columns by text, got 1"),
    "one-name-that-is-none": ({"label": 1, None: 2}, "where must name columns by text, got None"),
    "long": ("a" * 1000, "got 'a{79}$"),
}


@pytest.mark.parametrize(("where", "says"), NO_CONDITIONS.values(), ids=NO_CONDITIONS)
def test_what_is_no_mapping_of_names_is_refused(where, says):
    with pytest.raises(OptionError, match=says):
        conditions_of(where)


def test_find_reads_columns_alone(found):
    _, store, _ = found
    store.clear()
    dataset(store).find(split="train", label="cat")
    assert {r.name.partition("/")[0] for r in store.named("get_range")} == {"index"}


def test_a_split_of_a_dataset_without_splits(tmp_path):
    ds, _ = stored(write_tree(tmp_path, {"a.jpg": photo(1), "b.jpg": photo(2)}))
    assert ds.find(split=255).tolist() == ds.find(split=None).tolist() == [0, 1]
    with pytest.raises(OptionError, match="split must be one of none, got 'train'"):
        ds.find(split="train")


@pytest.fixture(scope="module", params=["record", "zarr"])
def odd(request):
    return dataset(DictStore(odd_columns.with_columns(request.param)))


OF_ODD = {
    # Image 3 would be number 3; its value is null, and that of image 0, too.
    "number": ({"count": [0, 2, 3, 5]}, lambda i: i in (2, 5)),
    "number-or-null": ({"count": [2, None]}, lambda i: i == 2 or odd_columns.null(i)),
    "none-of-numbers": ({"count": []}, lambda _: False),
    "boolean": ({"flag": True}, lambda i: not odd_columns.null(i) and i),
    "float": ({"score": 5.0}, lambda i: i == 5),
    "text": ({"caption": "caption \u00e9 4"}, lambda i: i == 4),
    "text-or-null": (
        {"caption": {"caption \u00e9 4", None}},
        lambda i: i == 4 or odd_columns.null(i),
    ),
    "json": ({"note": ['{"n": 5}', "{}"]}, lambda i: i == 5),
    "bytes": ({"blob": b"\x04\x00\xff"}, lambda i: i == 4),
    "function": ({"score": lambda v: v >= 0}, lambda i: not odd_columns.null(i)),
    "function-of-texts": (
        {"caption": lambda v: np.array([t is not None and t.endswith("1") for t in v])},
        lambda i: i == 1,
    ),
    "function-of-rows": (
        {"boxes": lambda v: np.array([b is not None and len(b) == 2 for b in v])},
        lambda i: i % 3 == 2 and not odd_columns.null(i),
    ),
    **{f"null-{name}": ({name: None}, odd_columns.null) for name in odd_columns.VALUES},
}


@pytest.mark.parametrize(("conditions", "meets"), OF_ODD.values(), ids=OF_ODD)
def test_null_is_found_by_none_and_by_nothing_else(odd, conditions, meets):
    assert odd.find(**conditions).tolist() == [i for i in range(len(odd)) if meets(i)]


ODD_REFUSED = {
    "text-for-bytes": ({"blob": "x"}, "blob must be bytes, got 'x'"),
    "bytes-for-text": ({"caption": b"x"}, "caption must be text, got b'x'"),
    "number-for-json": ({"note": 5}, "note must be JSON text, got 5"),
    "ragged": ({"boxes": 1.0}, r"boxes has values of shape \[None, 4\]: give a function"),
    "never-null": ({"width": None}, "width must be a number"),
}


@pytest.mark.parametrize(("conditions", "says"), ODD_REFUSED.values(), ids=ODD_REFUSED)
def test_a_condition_is_of_the_type_of_its_column(odd, conditions, says):
    with pytest.raises(OptionError, match=says):
        odd.find(**conditions)
