"""FORMAT.md is enough: a reader that was written from it alone reads what pcrstore writes."""

import hashlib
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import second_reader
from jpeg_files import has_transcoder
from many_groups import THIRTY_TWO
from recoder import recode
from small_sources import broken, encoded, small_options, sources, write_sources

import pcrstore

pytestmark = pytest.mark.skipif(not has_transcoder(), reason="the C extension is not built")

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAYOUTS = ["record", "zarr"]
FILES = {**sources(), "train/cat/broken.jpg": broken(), "train/dog/not-an-image.jpg": b"\x00" * 99}


@pytest.fixture(scope="module", params=list(product(LAYOUTS, ["opaque", "encode"])), ids="-".join)
def pair(request, tmp_path_factory):
    """The same dataset as pcrstore and as the second reader see it."""
    layout, policy = request.param
    root = tmp_path_factory.mktemp(f"{layout}-{policy}")
    write_sources(root / "src", FILES)
    pcrstore.convert(str(root / "src"), str(root / "ds"), small_options(layout, policy), workers=1)
    return pcrstore.open(str(root / "ds")), second_reader.Dataset(root / "ds")


def test_the_set_has_a_case_for_every_rule(pair):
    ours, plain = pair
    encode = 2 in plain.columns["format"]
    lost = {"train/cat/broken.jpg", "train/dog/not-an-image.jpg"} if encode else set()
    assert sorted(plain.columns["key"]) == sorted(FILES.keys() - lost)
    assert {int(f) for f in plain.columns["format"]} == ({0, 2} if encode else {0, 1})
    kinds = {blob[0] & 15 for blob in plain.restore if blob}
    assert kinds == {0, 1, 2} if encode else kinds >= {1, 2}
    assert any(blob[0] & 128 for blob in plain.restore if blob)
    assert set(plain.columns["orientation"]) == {1, 6}
    assert ours.n_records > 3
    assert ours.manifest.splits == ("train", "val")


def test_the_second_reader_imports_nothing_of_pcrstore():
    text = Path(second_reader.__file__).read_text()
    assert not re.search(r"^\s*(import|from)\s+pcrstore", text, re.MULTILINE)


def test_columns_agree(pair):
    ours, plain = pair
    assert set(plain.columns) == {c.name for c in ours.manifest.columns}
    for name, values in plain.columns.items():
        got = ours.column(name)
        assert np.array_equal(np.array(values), np.asarray(got)), name
    assert plain.columns["key"] == ours.keys
    assert [int(v) for v in plain.columns["label"]] == ours.labels.tolist()


def test_every_fidelity_of_every_image_agrees(pair):
    ours, plain = pair
    everything = range(len(ours))
    for k in range(1, ours.n_groups + 1):
        assert [plain.jpeg(i, k) for i in everything] == ours.fetch(everything, fidelity=k)


def original(plain, i):
    """A source file, without pcrstore and without libjpeg."""
    return plain.original(i, lambda skeleton: recode(skeleton, plain.jpeg(i, plain.n_groups)))


def test_originals_come_back(pair):
    _, plain = pair
    for i, key in enumerate(plain.columns["key"]):
        source = original(plain, i)
        assert source == FILES[key], key
        assert hashlib.sha256(source).digest() == bytes(plain.columns["source_sha256"][i])


def test_sources_are_described(pair):
    _, plain = pair
    for i, key in enumerate(plain.columns["key"]):
        assert int(plain.columns["source_bytes"][i]) == len(FILES[key])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "script",
    ["spec5", "al3", "standard", "standard-10", "[all]\n*: 0-0, 0, 0\n*: 1-63, 0, 0", THIRTY_TWO],
)
def test_other_scripts_agree(tmp_path, layout, script):
    """Also of one group, where metadata stand in cell 1."""
    files = {k: v for k, v in sources().items() if not k.endswith(".png")}
    write_sources(tmp_path / "src", files)
    options = small_options(layout, "raise", script=script)
    pcrstore.convert(str(tmp_path / "src"), str(tmp_path / "ds"), options, workers=1)
    ours, plain = pcrstore.open(str(tmp_path / "ds")), second_reader.Dataset(tmp_path / "ds")
    everything = range(len(ours))
    for k in range(1, ours.n_groups + 1):
        assert [plain.jpeg(i, k) for i in everything] == ours.fetch(everything, fidelity=k)
    for i, key in enumerate(plain.columns["key"]):
        assert original(plain, i) == files[key], key


def test_damage_is_refused(pair, tmp_path):
    """The second reader checks what the page says it MUST: any flipped byte of a manifest."""
    _, plain = pair
    (path,) = (plain.root / "manifests").iterdir()
    data = path.read_bytes()
    (tmp_path / "manifests").mkdir()
    for at in range(0, len(data), 97):
        (tmp_path / "manifests" / path.name).write_bytes(
            data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        )
        with pytest.raises(ValueError, match=r".") as caught:
            second_reader.Dataset(tmp_path)
        assert isinstance(caught.value, second_reader.RefusedError)


@pytest.mark.parametrize("name", ["v1-record", "v1-zarr"])
def test_datasets_of_format_version_1_stay_readable(name):
    """What make_fixtures.py wrote when version 1 was new is never written again."""
    ds = pcrstore.open(str(FIXTURES / name))
    plain = second_reader.Dataset(FIXTURES / name)
    pinned = json.loads((FIXTURES / f"{name}.json").read_text())
    assert ds.keys == list(pinned)
    assert ds.classes == ("cat", "dog")
    for k in range(1, ds.n_groups + 1):
        wanted = [digests[k - 1] for digests in pinned.values()]
        assert [digest(data) for data in ds.fetch(range(len(ds)), fidelity=k)] == wanted
        assert [digest(plain.jpeg(i, k)) for i in range(len(ds))] == wanted
    got = [digest(data) for data in ds.fetch(range(len(ds)), fidelity="original")]
    assert got == [digests[-1] for digests in pinned.values()]
    sha256 = np.asarray(ds.column("source_sha256"))
    assert got == [bytes(row).hex() for row in sha256]
    assert all(a.shape[2] == 3 for a in ds.read(decodable(ds)))


def decodable(ds):
    return [i for i, form in enumerate(ds.column("format")) if form == 0]


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("n", [255, 256, 257])
def test_a_dataset_has_at_most_255_splits(tmp_path, n):
    data = encoded(1, (8, 8), "L")
    write_sources(tmp_path / "src", {f"s{i:03}/c/a.jpg": data for i in range(n)})
    options = pcrstore.Options(split_dirs=True)
    if n > 255:
        with pytest.raises(pcrstore.OptionError, match="at most 255 split folders"):
            pcrstore.convert(str(tmp_path / "src"), str(tmp_path / "ds"), options, workers=1)
        return
    pcrstore.convert(str(tmp_path / "src"), str(tmp_path / "ds"), options, workers=1)
    ds = pcrstore.open(str(tmp_path / "ds"))
    splits = ds.manifest.splits
    assert [splits[s] for s in ds.column("split")] == [k.split("/")[0] for k in ds.keys]
