"""Plain zarr reads a zarr layout dataset; a view shows records as the same arrays."""

import builtins
import importlib
import itertools
import json
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import has_transcoder
from small_sources import broken, small_options, sources, write_sources

import pcrstore
from pcrstore.core.checksum import crc32c
from pcrstore.dataset.dataset import Dataset
from pcrstore.errors import FormatError, MissingDependencyError
from pcrstore.storage.protocol import ReadableStore

zarr = pytest.importorskip("zarr")
from zarr.abc.store import (  # noqa: E402 - only where zarr is installed
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.core.buffer import default_buffer_prototype  # noqa: E402
from zarr.core.sync import sync  # noqa: E402

from pcrstore.zarr_view import ZarrStore, zarr_view  # noqa: E402

pytestmark = pytest.mark.skipif(not has_transcoder(), reason="the C extension is not built")

FILES = {**sources(), "train/cat/broken.jpg": broken()}
EXAMPLES = {"chunks-of-1000": 1000, "one-chunk": 10**7}
NAMES = {
    *(f"group_{g}" for g in range(1, 6)),
    *("restore", "record_first_image", "image_offsets", "image_checksums", "opaque", "labels"),
    *("key_bytes", "key_offsets"),
}


def convert(root, layout, destination=None, options=None):
    write_sources(root / "src", FILES)
    url = destination or str(root / layout)
    pcrstore.convert(
        str(root / "src"),
        url,
        small_options(layout, "opaque"),
        workers=1,
        destination_options=options,
    )
    return url


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """The same images in both layouts, by layout."""
    root = tmp_path_factory.mktemp("view")
    return {layout: convert(root, layout) for layout in ("record", "zarr")}


def stored_group(url):
    ds = pcrstore.open(url)
    return f"{url}/zarr/{ds.manifest.conversions[0].id}"


def jpegs(group, k):
    """Every image's file at fidelity k, by nothing but arrays."""
    offsets, opaque = group["image_offsets"][:], group["opaque"][:]
    regions = [group[f"group_{g + 1}"][:] for g in range(k)]
    checksums = group["image_checksums"][:]
    out = []
    for i, whole in enumerate(opaque):
        cells = [r[offsets[i, g] : offsets[i + 1, g]].tobytes() for g, r in enumerate(regions)]
        assert [crc32c(c) for c in cells] == checksums[i, :k].tolist()
        out.append(cells[0] if whole else b"".join(cells) + b"\xff\xd9")
    return out


def keys(group):
    raw, edges = group["key_bytes"][:].tobytes(), group["key_offsets"][:].tolist()
    return [raw[a:b].decode() for a, b in itertools.pairwise(edges)]


def assert_shows(group, ds):
    """A group holds what the dataset holds."""
    assert keys(group) == ds.keys
    assert np.array_equal(group["labels"][:], ds.labels)
    everything = range(len(ds))
    for k in range(1, ds.n_groups):  # at fidelity G pcrstore moves metadata to the head
        assert jpegs(group, k) == ds.fetch(everything, fidelity=k)


def assert_same_arrays(a, b):
    assert set(a.array_keys()) == set(b.array_keys()) == NAMES
    for name in NAMES:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].shape == b[name].shape, name
        assert np.array_equal(a[name][...], b[name][...]), name


@pytest.mark.parametrize("chunk_bytes", EXAMPLES.values(), ids=EXAMPLES)
def test_a_view_of_records_shows_the_arrays_of_the_zarr_layout(urls, chunk_bytes):
    store = ZarrStore(pcrstore.open(urls["record"]), chunk_bytes)
    view = zarr.open_group(store=store, mode="r")
    plain = zarr.open_group(stored_group(urls["zarr"]), mode="r")
    assert (view["group_1"].nchunks > 1) == (chunk_bytes == 1000)
    assert_same_arrays(view, plain)
    assert dict(view.attrs)["classes"] == dict(plain.attrs)["classes"]
    assert_shows(view, pcrstore.open(urls["record"]))


def test_plain_zarr_reads_a_zarr_layout(urls):
    assert_shows(zarr.open(stored_group(urls["zarr"]), mode="r"), pcrstore.open(urls["zarr"]))


def test_plain_zarr_reads_a_zarr_layout_on_s3(s3_server, tmp_path):
    pytest.importorskip("s3fs")
    options = s3_server.options
    convert(tmp_path, "zarr", s3_server.url, options)
    ds = pcrstore.open(s3_server.url, options)
    group = zarr.open(
        f"{s3_server.url}/zarr/{ds.manifest.conversions[0].id}", mode="r", storage_options=options
    )
    assert_shows(group, ds)


@pytest.fixture(params=["file", "s3"])
def place(request, urls, s3_server, tmp_path):
    """URL of a dataset in zarr layout, its storage options, and the name of its group."""
    if request.param == "file":
        url, options = urls["zarr"], None
    else:
        pytest.importorskip("s3fs")
        url, options = s3_server.url, s3_server.options
        convert(tmp_path, "zarr", url, options)
    ds = pcrstore.open(url, options)
    return url, options, f"zarr/{ds.manifest.conversions[0].id}"


def test_plain_zarr_finds_the_group_from_the_url_of_the_dataset(place):
    url, options, name = place
    root = zarr.open(url, mode="r", storage_options=options)
    assert isinstance(root, zarr.Group)
    assert dict(root.attrs) == {}
    assert_shows(root[name], pcrstore.open(url, options))


DIMENSIONS = {
    **{f"group_{g}": (f"group_{g}_byte",) for g in range(1, 6)},
    "restore": ("restore_byte",),
    "record_first_image": ("record_edge",),
    "image_offsets": ("image_edge", "region"),
    "image_checksums": ("image", "group"),
    "opaque": ("image",),
    "labels": ("image",),
    "key_bytes": ("key_byte",),
    "key_offsets": ("image_edge",),
}


def assert_xarray_shows(found, ds):
    assert {name: found[name].dims for name in found.variables} == DIMENSIONS
    assert (found.sizes["image"], found.sizes["group"]) == (len(ds), ds.n_groups)
    assert found.sizes["record_edge"] == ds.n_records + 1
    assert np.array_equal(found["labels"].values, ds.labels)
    assert found.attrs["classes"] == list(ds.classes)


# With `group`, xarray takes consolidated metadata of the root, which is the same for every
# conversion and so has none: True is for the URL of the group.
WAYS = {
    "group": (False, {"consolidated": False}),
    "group-url": (True, {"consolidated": False}),
    "group-url-consolidated": (True, {"consolidated": True}),
    "group-url-default": (True, {}),
}


@pytest.mark.parametrize(("of_group", "asked"), WAYS.values(), ids=WAYS)
def test_xarray_opens_a_group_with_its_dimensions(place, of_group, asked):
    xarray = pytest.importorskip("xarray")
    url, options, name = place
    where = {} if of_group else {"group": name}
    url_of_group = f"{url}/{name}" if of_group else url
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xarray.open_zarr(url_of_group, storage_options=options, **where, **asked)
    assert_xarray_shows(found, pcrstore.open(url, options))


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("consolidated", [True, False])
def test_xarray_opens_a_view(urls, layout, consolidated):
    xarray = pytest.importorskip("xarray")
    ds = pcrstore.open(urls[layout])
    assert_xarray_shows(xarray.open_zarr(ZarrStore(ds), consolidated=consolidated), ds)


def test_every_array_names_its_dimensions(urls):
    folder = Path(stored_group(urls["zarr"]))
    found = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/zarr.json")}
    assert {name: tuple(m["dimension_names"]) for name, m in found.items()} == DIMENSIONS
    assert json.loads(Path(urls["zarr"], "zarr.json").read_text()) == {
        "attributes": {},
        "node_type": "group",
        "zarr_format": 3,
    }


def test_a_view_of_a_zarr_layout_is_its_group(urls):
    view = zarr_view(urls["zarr"])
    plain = zarr.open_group(stored_group(urls["zarr"]), mode="r")
    assert_same_arrays(view, plain)
    assert view.metadata.consolidated_metadata is not None


def test_a_view_of_records_on_s3(s3_server, tmp_path, urls):
    convert(tmp_path, "record", s3_server.url, s3_server.options)
    view = zarr_view(s3_server.url, s3_server.options)
    assert_same_arrays(view, zarr.open_group(stored_group(urls["zarr"]), mode="r"))


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_view_takes_an_open_dataset_and_pickles(urls, layout):
    ds = pcrstore.open(urls[layout])
    store = ZarrStore(ds, chunk_bytes=2000)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own
    assert again == store
    assert sync(listed(again.list())) == sync(listed(store.list()))
    assert store != ZarrStore(ds)
    assert store != ZarrStore(pcrstore.open(urls["zarr" if layout == "record" else "record"]))
    view = zarr.open_group(store=again, mode="r")
    assert_shows(view, ds)
    assert keys(zarr_view(ds)) == ds.keys


RANGES = {
    "all": None,
    "inside": RangeByteRequest(10, 20),
    "first-byte": RangeByteRequest(0, 1),
    "past-the-end": RangeByteRequest(990, 5000),
    "offset": OffsetByteRequest(40),
    "offset-at-end": OffsetByteRequest(10**6),
    "suffix": SuffixByteRequest(7),
    "suffix-longer-than-all": SuffixByteRequest(10**6),
}


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("wanted", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("key", ["group_1/c/0", "group_2/c/1", "zarr.json", "opaque/c/0"])
def test_partial_reads_are_slices_of_the_value(urls, layout, wanted, key):
    store = ZarrStore(pcrstore.open(urls[layout]), chunk_bytes=1000)
    prototype = default_buffer_prototype()
    whole = sync(store.get(key, prototype)).to_bytes()
    expected = {
        RangeByteRequest: lambda r: whole[r.start : r.end],
        OffsetByteRequest: lambda r: whole[r.offset :],
        SuffixByteRequest: lambda r: whole[max(0, len(whole) - r.suffix) :],
        type(None): lambda _: whole,
    }[type(wanted)](wanted)
    assert sync(store.get(key, prototype, wanted)).to_bytes() == expected
    (both,) = sync(store.get_partial_values(prototype, [(key, wanted)]))
    assert both.to_bytes() == expected
    assert sync(store.getsize(key)) == len(whole)


class Counting(ReadableStore):
    """A store that writes down what it is asked for."""

    url = "counting://"

    def __init__(self, store):
        self.store, self.asked = store, []

    def get_ranges(self, ranges):
        self.asked.extend(ranges)
        return self.store.get_ranges(ranges)


def test_a_partial_read_of_a_chunk_asks_for_no_more(urls):
    plain = pcrstore.open(urls["record"])
    counting = Counting(plain.store)
    store = ZarrStore(Dataset(counting, plain.manifest, plain.cost))
    counting.asked.clear()
    sync(store.get("group_1/c/0", default_buffer_prototype(), RangeByteRequest(0, 10)))
    assert [len(r) for r in counting.asked] == [10]
    assert counting.asked[0].name.startswith("objects/")


def test_a_chunk_is_read_in_coalesced_requests(urls):
    plain = pcrstore.open(urls["record"])
    counting = Counting(plain.store)
    store = ZarrStore(Dataset(counting, plain.manifest, plain.cost))
    counting.asked.clear()
    sync(store.get("group_1/c/0", default_buffer_prototype()))
    assert len(counting.asked) == len({r.name for r in counting.asked})  # one each of few objects
    assert len(counting.asked) < plain.n_records


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_keys_that_are_not_there_are_none(urls, layout):
    store = ZarrStore(pcrstore.open(urls[layout]))
    for key in ("", "nothing", "zarr", "group_9/zarr.json", ".zgroup", "group_1"):
        assert sync(store.get(key, default_buffer_prototype())) is None, key
        assert not sync(store.exists(key))
        with pytest.raises(FileNotFoundError):
            sync(store.getsize(key))


@pytest.mark.parametrize(
    "key", ["group_1/c/00", "group_1/c/-1", "group_1/c/99", "group_1/c/\u0661"]
)
def test_only_canonical_chunk_keys_exist(urls, key):
    store = ZarrStore(pcrstore.open(urls["record"]))
    assert sync(store.exists("group_1/c/0"))
    assert not sync(store.exists(key))


async def listed(names):
    return [name async for name in names]


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_listings_agree_with_the_keys(urls, layout):
    store = ZarrStore(pcrstore.open(urls[layout]))
    every = sync(listed(store.list()))
    assert all(sync(store.exists(key)) for key in every)
    assert len(every) == len(set(every))
    assert set(sync(listed(store.list_dir("")))) == {*NAMES, "zarr.json"}
    assert set(sync(listed(store.list_dir("group_1/")))) == {"zarr.json", "c"}
    assert set(sync(listed(store.list_prefix("group_1/c/")))) == {
        key for key in every if key.startswith("group_1/c/")
    }


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_view_refuses_writes(urls, layout):
    view = zarr_view(urls[layout])
    store = view.store
    buffer = default_buffer_prototype().buffer.from_bytes(b"x")
    with pytest.raises(ValueError, match="read"):
        view["labels"][0] = 3
    with pytest.raises(ValueError, match="read"):
        view.create_array("more", shape=(1,), dtype="u1")
    for call in (store.set("a", buffer), store.delete("a"), store.set_if_not_exists("a", buffer)):
        with pytest.raises(ValueError, match="read-only"):
            sync(call)
    with pytest.raises(ValueError, match="read-only"):
        store.with_read_only(read_only=False)
    assert store.with_read_only(read_only=True) is store
    assert store.read_only
    assert not store.supports_writes


@pytest.mark.parametrize("lost", ["before-opening", "after-opening"])
@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_lost_objects_are_an_error_and_no_zeros(tmp_path, layout, lost):
    url = convert(tmp_path, layout)
    group = zarr_view(url)
    victims = [
        p
        for p in (tmp_path / layout).rglob("*")
        if p.is_file() and (p.suffix == ".pcr" or "group_1/c" in str(p))
    ]
    for path in victims:
        path.unlink()
    if lost == "before-opening":
        group = zarr_view(url)
    with pytest.raises(FormatError, match="missing"):
        group["group_1"][:]


def test_without_zarr_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_zarr(name, *args):
        if name.split(".")[0] == "zarr":
            raise ImportError(name)
        return real(name, *args)

    for name in ("pcrstore.zarr_view", "pcrstore.zarr_view.store"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_zarr)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pcrstore\[zarr\]'"):
        importlib.import_module("pcrstore.zarr_view")
