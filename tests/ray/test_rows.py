"""Rows have the columns asked for, with names where ids mean nothing, and the image last."""

import numpy as np
import odd_columns
import pytest
from flows import DictStore
from rewritten import Draft
from small_datasets import a_dataset, opened, recorded, stored

from pcrstore.errors import OptionError, UnsupportedFormatError
from pcrstore.format.columns import Column

pa = pytest.importorskip("pyarrow")
pytest.importorskip("ray.data")

from pcrstore.ray.rows import BASE, LazyColumns, schema_of, table_of  # noqa: E402 - needs ray


def test_a_schema_has_a_type_for_each_column_and_the_image_last():
    names = [*BASE, "format", "width", "source_sha256"]
    schema = schema_of(a_dataset(), names, decode=False)
    assert schema.names == [*names, "image"]
    assert [schema.field(n).type for n in (*BASE, "format", "image")] == [
        *(pa.string(), pa.int64(), pa.string(), pa.string(), pa.binary())
    ]
    assert pa.types.is_fixed_size_list(schema.field("source_sha256").type)
    with pytest.raises(OptionError, match=r"column must be one of .*, got colour"):
        schema_of(a_dataset(), ["colour"], decode=False)


def test_rows_are_in_the_order_of_the_images():
    ds = a_dataset(opaque=(4,))
    images = np.array([7, 0, 7])
    names = ["key", "split", "format", "source_sha256"]
    rows = table_of(ds, images, 3, schema_of(ds, names, decode=False)).to_pylist()
    assert [row["image"] for row in rows] == ds.fetch(images, 3)
    assert [row["key"] for row in rows] == ds.column("key", images)
    splits = np.asarray(ds.column("split", images))
    assert [row["split"] for row in rows] == [ds.splits[i] for i in splits]
    assert {row["format"] for row in rows} <= {"jpeg", "opaque"}
    hashes = np.asarray(ds.column("source_sha256", images))
    assert [row["source_sha256"] for row in rows] == hashes.tolist()


def test_images_are_pixels_where_the_schema_has_tensors():
    ds = a_dataset()
    table = table_of(ds, np.array([3, 1]), 2, schema_of(ds, ["key"], decode=True))
    for pixels, image in zip(ds.read([3, 1], 2), table["image"].chunk(0).to_numpy(), strict=True):
        np.testing.assert_array_equal(image, pixels)


def test_columns_are_a_mapping_like_any_other():
    ds = a_dataset()
    columns = LazyColumns(ds)
    assert "label" in columns
    assert "colour" not in columns
    assert 3 not in columns
    assert columns.get("colour") is None
    assert columns.get("colour", 3) == 3
    assert columns.get("label") is columns["label"]
    assert dict(columns).keys() == set(columns)
    assert len(columns) == len(ds.columns)
    with pytest.raises(KeyError, match=r"^column must be one of .*, got colour$") as caught:
        columns["colour"]
    assert isinstance(caught.value, OptionError)


def test_a_column_is_read_when_it_is_first_used():
    ds, store = recorded()
    columns = LazyColumns(ds)
    assert not store.requests
    first = columns["label"]
    n = len(store.requests)
    assert columns["label"] is first
    assert len(store.requests) == n > 0


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_values_of_any_kind_are_null_where_they_lack(layout):
    ds = opened(DictStore(odd_columns.with_columns(layout)))
    names = [*odd_columns.VALUES]
    schema = schema_of(ds, names, decode=False)
    for images in (np.arange(odd_columns.N), np.array([2, 1]), np.array([0])):
        rows = table_of(ds, images, 1, schema).to_pylist()
        for name in names:
            wanted = odd_columns.expected(name)
            assert [row[name] for row in rows] == [wanted[i] for i in images.tolist()], name


def test_columns_of_all_images_keep_their_nulls():
    columns = LazyColumns(opened(DictStore(odd_columns.with_columns())))
    for name in odd_columns.VALUES:
        values = columns[name]
        assert values.shape[0] == odd_columns.N
        assert odd_columns.plain(values if values.dtype != object else list(values)) == (
            odd_columns.expected(name)
        )
    assert columns["key"].dtype.kind == "U"


def test_a_column_of_a_later_type_is_refused():
    draft = Draft.of(stored())
    draft.add(Column(name="wave", dtype="<c8", shape=()), np.zeros(20, np.complex64))
    ds = opened(DictStore(draft.encode()))
    with pytest.raises(UnsupportedFormatError, match="wave has the type '<c8'"):
        schema_of(ds, ["key", "wave"], decode=False)
