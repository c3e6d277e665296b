"""FORMAT.md is enough: a reader that was written from it alone reads what pcrstore writes."""

import hashlib
import json
import re
import shutil
import struct
import zlib
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import second_reader
from jpeg_files import has_transcoder, sample_files
from small_sources import broken, small_options, sources, write_sources

import pcrstore
from pcrstore.format import json_schema
from pcrstore.format.column_values import pack_values
from pcrstore.format.columns import Column

pytestmark = pytest.mark.skipif(not has_transcoder(), reason="the C extension is not built")

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAYOUTS = ["record", "zarr"]
FILES = {**sources(), "train/cat/broken.jpg": broken(), "train/dog/not-an-image.jpg": b"\x00" * 99}
JPEGS = {key: data for key, data in sources().items() if not key.endswith(".png")}
SCHEMAS = {
    path.stem: json.loads(path.read_text())
    for path in (Path(json_schema.__file__).parent / "schema").iterdir()
}


def converted(root, files, options):
    write_sources(root / "src", files)
    pcrstore.convert(str(root / "src"), str(root / "ds"), options, workers=1)
    return pcrstore.open(str(root / "ds")), second_reader.Dataset(root / "ds")


def assert_readers_agree(ours, plain):
    """Columns, and the files of all images at each fidelity."""
    everything = range(len(ours))
    assert len(plain) == len(everything)
    assert set(ours.columns) == {c["name"] for c in plain.manifest["columns"]}
    for name in ours.columns:
        assert plain_values(ours.column(name)) == plain_values(plain.column(name)), name
    for k in range(1, ours.n_groups + 1):
        assert [plain.jpeg(i, k) for i in everything] == ours.fetch(everything, fidelity=k), k


def assert_originals_agree(ours, plain, files):
    everything = range(len(ours))
    originals = [plain.original(i) for i in everything]
    assert originals == ours.fetch(everything, fidelity="original")
    assert originals == [files[key] for key in plain.column("key")]
    digests = [hashlib.sha256(data).digest() for data in originals]
    assert digests == [bytes(digest) for digest in plain.column("source_sha256")]
    assert list(map(len, originals)) == plain.column("source_bytes")


def plain_values(values):
    """Values of a column, of either reader, as what can be compared."""
    if isinstance(values, np.ndarray):
        mask = np.ma.getmaskarray(values).reshape(len(values), -1)
        values = [None if m.all() else v for m, v in zip(mask, np.ma.getdata(values), strict=True)]
    return [*map(comparable, values)]


def comparable(value):
    """A value as what is equal where its type, its shape and its bytes are, also if it is NaN."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.str, value.shape, value.tobytes()
    return value


@pytest.fixture(scope="module", params=list(product(LAYOUTS, ["opaque", "encode"])), ids="-".join)
def pair(request, tmp_path_factory):
    """The same dataset as pcrstore and as the second reader see it."""
    layout, policy = request.param
    root = tmp_path_factory.mktemp(f"{layout}-{policy}")
    return converted(root, FILES, small_options(layout, policy))


def test_the_set_has_a_case_for_every_rule(pair):
    ours, plain = pair
    encode = 2 in plain.column("format")
    lost = {"train/cat/broken.jpg", "train/dog/not-an-image.jpg"} if encode else set()
    assert sorted(plain.column("key")) == sorted(FILES.keys() - lost)
    assert set(plain.column("format")) == ({0, 2} if encode else {0, 1})
    blobs = [plain.cells(i)[-1] for i in range(len(plain))]
    assert {blob[0] & 15 for blob in blobs if blob} == ({0, 1, 2} if encode else {1, 2})
    assert any(blob[0] & 128 for blob in blobs if blob)
    assert set(plain.column("orientation")) == {1, 6}
    assert ours.n_records > 3
    assert plain.manifest["splits"] == ["train", "val"]


def test_the_second_reader_imports_nothing_of_pcrstore():
    for name in ("second_reader.py", "recoder.py"):
        text = Path(second_reader.__file__).with_name(name).read_text()
        imported = re.findall(r"^\s*(?:import|from)\s+(\w+)", text, re.MULTILINE)
        assert {"pcrstore", "PIL"}.isdisjoint(imported)


def test_the_rules_of_a_version_hold(pair):
    _, plain = pair
    plain.check()
    assert second_reader.newest_without_list(plain.store.root) == plain.version == 1


def test_columns_and_every_fidelity_of_every_image_agree(pair):
    assert_readers_agree(*pair)


def test_originals_come_back(pair):
    assert_originals_agree(*pair, FILES)


def test_json_has_the_shipped_schemas(pair):
    _, plain = pair
    jsonschema.validate(plain.manifest, SCHEMAS["manifest"])
    for part in plain.parts:
        jsonschema.validate(part.directory, SCHEMAS["directory"])


def test_side_arrays_say_what_the_index_says(pair):
    _, plain = pair
    if plain.manifest["layout"] != "zarr":
        return
    (conversion,) = plain.manifest["conversions"]
    group = second_reader.Group(plain, conversion["id"])
    offsets, first = group.array("image_offsets"), group.array("record_first_image")
    records = [record for part in plain.parts for record in part.records]
    cells = [plain.cells(i) for i in range(len(plain))]
    assert first.tolist() == [r.first_image for r in records] + [len(plain)]
    assert np.diff(offsets, axis=0).tolist() == [list(map(len, own)) for own in cells]
    assert offsets[first[:-1]].tolist() == [r.starts for r in records]
    plain_checksums = [[second_reader.crc(cell) for cell in own[:-1]] for own in cells]
    assert group.array("image_checksums").tolist() == plain_checksums
    assert group.array("opaque").tolist() == [f == 1 for f in plain.column("format")]
    assert group.array("labels").tolist() == plain.column("label")
    assert group.attributes["classes"] == plain.manifest["classes"]
    edges, text = group.array("key_offsets").tolist(), group.array("key_bytes").tobytes()
    keys = [text[a:b].decode() for a, b in pairwise(edges)]
    assert keys == plain.column("key")


def test_an_object_without_its_index_is_read(pair):
    _, plain = pair
    root = plain.store.root
    found = [
        file
        for path in sorted(root.glob("objects/*"))
        for files in second_reader.recovered(path.read_bytes())
        for file in files
    ]
    wanted = [plain.jpeg(i, plain.n_groups) for i in range(len(plain))]
    assert sorted(found) == (sorted(wanted) if plain.manifest["layout"] == "record" else [])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "script", ["spec5", "al3", "standard", "standard-10", "[all]\n*: 0-0, 0, 0\n*: 1-63, 0, 0"]
)
def test_other_scripts_agree(tmp_path, layout, script):
    """Also of one group, where metadata stand in cell 1."""
    ours, plain = converted(tmp_path, JPEGS, small_options(layout, "raise", script=script))
    plain.check()
    assert_readers_agree(ours, plain)
    assert_originals_agree(ours, plain, JPEGS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("folder", "pattern", "n"),
    [("imagenet-sample", "*.JPEG", 8), ("clothing-small", "*.jpg", 20), ("odd-jpegs", "*", None)],
)
def test_real_photos_agree(tmp_path, layout, folder, pattern, n):
    files = {path.name: path.read_bytes() for path in sample_files(folder, pattern, n)}
    ours, plain = converted(tmp_path, files, pcrstore.Options(layout=layout, policy="opaque"))
    plain.check()
    assert_readers_agree(ours, plain)
    assert_originals_agree(ours, plain, files)


@pytest.mark.parametrize("name", ["v1-record", "v1-zarr"])
def test_datasets_of_format_version_1_stay_readable(name):
    """What make_fixtures.py wrote when version 1 was new is never written again."""
    ours, plain = pcrstore.open(str(FIXTURES / name)), second_reader.Dataset(FIXTURES / name)
    plain.check()
    pinned = json.loads((FIXTURES / f"{name}.json").read_text())
    assert ours.keys == list(pinned)
    assert ours.classes == ("cat", "dog")
    assert_readers_agree(ours, plain)
    everything = range(len(ours))
    for k in range(1, ours.n_groups + 1):
        wanted = [digests[k - 1] for digests in pinned.values()]
        assert [hexdigest(data) for data in ours.fetch(everything, fidelity=k)] == wanted
    originals = [digests[-1] for digests in pinned.values()]
    assert [hexdigest(data) for data in ours.fetch(everything, fidelity="original")] == originals
    assert [hexdigest(plain.original(i)) for i in everything] == originals
    decodable = [i for i in everything if plain.column("format")[i] == 0]
    assert all(pixels.shape[2] == 3 for pixels in ours.read(decodable))


def hexdigest(data):
    return hashlib.sha256(data).hexdigest()


class Taken:
    """The JSON and the pages of a dataset, to be changed and written again; checksums are right."""

    def __init__(self, root):
        self.root = root
        (self.path,) = (root / "manifests").iterdir()
        self.manifest = json.loads(self.path.read_bytes().partition(b"\n")[2])
        self.version, self.parts = 1, []
        for entry in self.manifest["parts"]:
            data = (root / entry["name"]).read_bytes()
            at = entry["directory"][0]
            directory = json.loads(data[12:at])
            for block in directory["blocks"]:
                sizes = [page[0] for page in block["pages"]]
                edges = np.cumsum([at, *sizes]).tolist()
                block["stored"] = [data[a:b] for a, b in pairwise(edges)]
                at = edges[-1]
            self.parts.append(directory)

    def block(self, name, part=0):
        (block,) = [b for b in self.parts[part]["blocks"] if b["name"] == name]
        return block

    def add(self, name, kind, page, part=0, **fields):
        rows = self.parts[part]["n_images"]
        block = {"name": name, "kind": kind, "codec": "none", "rows": rows, "rows_per_page": rows}
        block |= {"pages": [[len(page), len(page), 0]], "stored": [page], **fields}
        self.parts[part]["blocks"].append(block)

    def write(self):
        for entry, directory in zip(self.manifest["parts"], self.parts, strict=True):
            body = b""
            for block in directory["blocks"]:
                stored = block.pop("stored")
                for page, data in zip(block["pages"], stored, strict=True):
                    page[0], page[2] = len(data), second_reader.crc(data)
                    page[1] = page[1] if block["codec"] == "zlib" else len(data)
                body += b"".join(stored)
            text = json.dumps(directory).encode()
            head = b"PCRI" + struct.pack("<II", len(text), second_reader.crc(text)) + text
            (self.root / entry["name"]).write_bytes(head + body)
            entry |= {"bytes": len(head + body), "directory": [len(head), second_reader.crc(head)]}
        text = json.dumps(self.manifest).encode()
        line = "pcrstore-manifest v%d crc32c=%08x bytes=%d\n"
        line %= (self.version, second_reader.crc(text), len(text))
        self.path.write_bytes(line.encode() + text)


@pytest.fixture(scope="module", params=LAYOUTS)
def two_parts(request, tmp_path_factory):
    """A dataset of two index parts whose records have an image each; one has a column `note`."""
    root = tmp_path_factory.mktemp(f"parts-{request.param}")
    most = np.array((3, 2**24, 2**15))
    files = {key: FILES[key] for key in list(FILES)[:5]}
    options = small_options(request.param, "raise", record_images=1, shuffle=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcrstore.conversion.manifest_builder._MAX_PART", most)
        converted(root, files, options)
    dataset = Taken(root / "ds")
    assert [part["n_images"] for part in dataset.parts] == [3, 2]
    entry = {"dtype": "|u1", "shape": []}
    dataset.manifest["columns"].append({"name": "note", **entry})
    dataset.add("note", "column", b"\1\2\3", **entry, nulls=False)
    dataset.write()
    return dataset.root


@pytest.fixture
def taken(two_parts, tmp_path):
    """A copy of that dataset, to be changed."""
    return Taken(shutil.copytree(two_parts, tmp_path / "ds"))


DTYPES = [*second_reader.NUMBERS, *second_reader.TEXTS]
SHAPES = [(), (3,), (2, 3), (None,), (None, 4)]


def drawn(rng, column, *, nulls):
    """A value of a column, for pcrstore."""
    shape = [rng.integers(3) if n is None else n for n in column.shape]
    if nulls and rng.integers(2):
        return None
    if column.is_text:
        return nested(shape, lambda: text(rng, column.dtype))
    numbers = rng.integers(0, 256, (*shape, column.item.itemsize), np.uint8)
    numbers = numbers & 1 if column.dtype == "|b1" else numbers
    return numbers.view(column.item).reshape(shape)


def nested(shape, make):
    return make() if not shape else [nested(shape[1:], make) for _ in range(shape[0])]


def text(rng, dtype):
    word = "\u00e9\U0001f600a"[: rng.integers(4)]
    return {"utf8": word, "json": json.dumps([word]), "bytes": word.encode() + b"\xff"}[dtype]


def as_values(column, values):
    """Values as pcrstore has them: an array, masked where there are nulls, or a list."""
    if not column.is_array:
        return values
    blank = np.zeros(column.row_shape, column.item)
    mask = [np.full(column.row_shape, v is None) for v in values]
    data = np.stack([blank if v is None else v for v in values])
    return np.ma.MaskedArray(data, np.stack(mask)) if np.any(mask) else data


def test_columns_of_every_type_and_shape_agree(taken):
    """Written by pcrstore in pages of two values, of which some are deflated; one part has none."""
    rng = np.random.default_rng(0)
    for i, (dtype, shape, nulls) in enumerate(product(DTYPES, SHAPES, [False, True])):
        column = Column(name=f"column {i}", dtype=dtype, shape=shape)
        if column.is_text and len(shape) > 1:
            continue  # which the page does not allow
        values = [drawn(rng, column, nulls=nulls) for _ in range(3)]
        pages = [
            pack_values(column, as_values(column, values[a:b]), nulls=nulls)
            for a, b in ((0, 2), (2, 3))
        ]
        entry = {"dtype": dtype, "shape": list(shape)}
        taken.add(column.name, "column", b"", **entry, nulls=nulls)
        block = taken.block(column.name)
        block |= {"rows_per_page": 2, "pages": [[0, len(page), 0] for page in pages]}
        block |= {"stored": pages, "codec": "none"}
        if i % 3 == 0:
            block |= {"stored": [*map(zlib.compress, pages)], "codec": "zlib"}
        taken.manifest["columns"].append({"name": column.name, **entry})
    taken.write()
    ours, plain = pcrstore.open(str(taken.root)), second_reader.Dataset(taken.root)
    plain.check()
    assert len(ours.columns) == 10 + (12 * 5 + 3 * 3) * 2
    assert_readers_agree(ours, plain)
    jsonschema.validate(plain.manifest, SCHEMAS["manifest"])


def test_a_version_may_drop_images_and_says_which_bytes_are_unused(taken):
    dropped = second_reader.Dataset(taken.root).parts[1]
    lost = Counter()
    for record in dropped.records:
        sizes = record.lengths
        if len(record.runs) == 1:
            sizes = [len(record.header) + sum(sizes)]
            taken.manifest["bytes"]["headers"] -= len(record.header)
        lost.update(dict(zip([run["name"] for run in record.runs], sizes, strict=True)))
        for g, length in enumerate(record.lengths[:-1]):
            taken.manifest["bytes"]["groups"][g] -= length
        taken.manifest["bytes"]["restore"] -= record.lengths[-1]
    taken.manifest["bytes"]["sources"] -= int(sum(dropped.column("source_bytes")))
    for name in ("n_images", "n_records"):
        taken.manifest[name] -= taken.manifest["parts"][1][name]
    del taken.manifest["parts"][1], taken.parts[1]
    for run in taken.parts[0]["objects"]:
        run["unused"] = lost[run["name"]]
    taken.write()
    ours, plain = pcrstore.open(str(taken.root)), second_reader.Dataset(taken.root)
    plain.check()
    assert pcrstore.verify(str(taken.root)).faults == ()
    assert len(ours) == 3
    assert_readers_agree(ours, plain)


def test_the_newest_version_is_found_in_any_listing(taken):
    root = taken.root
    for name in ("ffffffff.pcrm", "FFFFFFFD.pcrm", "fffffffd.pcrm.tmp", "fffffffd"):
        (root / "manifests" / name).write_bytes(b"")
    assert second_reader.newest(root) == pcrstore.open(str(root)).version == 1
    taken.manifest["version"] = 2
    taken.path = root / "manifests" / "fffffffd.pcrm"
    taken.write()
    assert second_reader.newest(root) == pcrstore.open(str(root)).version == 2
    assert second_reader.newest_without_list(root) == 2


def add_fields(t):
    """Fields that the page does not name, in every object."""
    new = {"later": {"x": [1, None]}}
    m = t.manifest
    rows = [m, m["script"], m["bytes"], *m["columns"], *m["parts"], *m["checked"]]
    rows += [*m["conversions"], *m["quality"], *t.parts]
    for part in t.parts:
        rows += [*part["objects"], *part["blocks"]]
    for row in rows:
        row.update(new)


def rewrite_table(t, name, fields, *, part=0):
    """Store a table with other fields: (name, type, count), and zeros where they are new."""
    block = t.block(name, part)
    old = np.frombuffer(
        b"".join(block["stored"]), [(f, kind, (n,)) for f, kind, n in block["fields"]]
    )
    rows = np.zeros(len(old), [(f, kind, (n,)) for f, kind, n in fields])
    for field in set(rows.dtype.names) & set(old.dtype.names):
        rows[field] = old[field]
    page = rows.tobytes()
    block |= {"fields": fields, "stored": [page], "pages": [[0, 0, 0]]}


def other_types(t):
    """Other integer types, in another order, with a field that is new."""
    for part in range(2):
        for name in ("records", "restore"):
            fields = t.block(name, part)["fields"]
            wider = [[f, "<u8" if f != "n_images" else "<u2", n] for f, _, n in reversed(fields)]
            rewrite_table(t, name, [["later", "|u1", 3], *wider], part=part)


def set_type(t):
    t.manifest["columns"][-1]["dtype"] = t.block("note")["dtype"] = "later"


def columns_not_listed(t):
    t.add("other", "column", b"\1\2\3", dtype="|u1", shape=[], nulls=False)
    t.add("later", "column", b"\1\2\3", dtype="later", shape=[2], nulls=False)


def place(t, region):
    """Path, and offset, of the first byte of a region of the first record, and its uid."""
    record = second_reader.Dataset(t.root).parts[0].records[0]
    if len(record.runs) == 1:
        at = record.starts[0] + len(record.header) + sum(record.lengths[:region])
        return t.root / record.runs[0]["name"], at, record
    run, start = record.runs[region], record.starts[region]
    return t.root / run["name"] / "c" / str(start // run["chunk"]), start % run["chunk"], record


def put(path, at, data):
    old = path.read_bytes()
    path.write_bytes(old[:at] + data + old[at + len(data) :])


def seed_of(record):
    return second_reader.crc(
        bytes.fromhex(record.runs[0]["uid"]) + struct.pack("<Q", record.ordinal)
    )


def set_blob(t, first_byte):
    """Another first byte of the first image's restore blob."""
    blob = second_reader.Dataset(t.root).cells(0)[-1]
    g = len(t.manifest["groups"])
    path, at, record = place(t, g)
    put(path, at, bytes([first_byte]))
    word = (seed_of(record) + g * 0x85EBCA6B) % 2**32
    checksum = second_reader.crc(bytes([first_byte]) + blob[1:]) ^ word
    block = t.block("restore")
    (page,) = block["stored"]
    block["stored"] = [page[:4] + struct.pack("<I", checksum) + page[8:]]


def set_flags(t):
    """A flag of the first record's header."""
    path, at, record = place(t, 0)
    rewrite_header(t, path, at, record, record.header[8:11] + b"\1" + record.header[12:])


def rewrite_header(t, path, at, record, tail):
    """Write the first record's header, whose bytes from 8 are `tail`, in front of its region."""
    header = b"PCR1" + struct.pack("<I", second_reader.crc(tail) ^ seed_of(record)) + tail
    if len(record.runs) == 1:
        put(path, at - len(header), header)
    block = t.block("headers")
    (page,) = block["stored"]
    block["stored"] = [header + page[len(header) :]]


QUESTIONS = {
    "key": "key",
    "label": "label",
    "note": "note",
    "first": (0, 1),
    "first original": (0, "original"),
    "second": (1, 1),
    "last": (4, 1),
}
"""Columns, and images at a fidelity; the first two images are of one part, the last is not."""

READERS = {
    "pcrstore": (
        lambda root: pcrstore.open(str(root)),
        lambda ds, image, k: ds.fetch([image], fidelity=k)[0],
        pcrstore.UnsupportedFormatError,
    ),
    "second reader": (
        second_reader.Dataset,
        lambda ds, image, k: ds.original(image) if k == "original" else ds.jpeg(image, k),
        second_reader.NewerError,
    ),
}

WORDS = {
    # What is changed: how, and what a reader refuses then. All else it reads as before.
    "fields": (add_fields, []),
    "types, order and fields of tables": (other_types, []),
    "a block of another kind": (lambda t: t.add("key", "later", b"abc"), []),
    "columns that are not listed": (columns_not_listed, []),
    "a write feature": (lambda t: t.manifest["write_features"].append("later"), []),
    "a feature": (lambda t: t.manifest["features"].append("later"), QUESTIONS),
    "the version of the format": (lambda t: setattr(t, "version", 2), QUESTIONS),
    "a layout": (lambda t: t.manifest.update(layout="later"), QUESTIONS),
    "a codec of a column": (lambda t: t.block("note").update(codec="later"), ["note"]),
    "a type of a column": (set_type, ["note"]),
    "a codec of keys": (lambda t: t.block("key").update(codec="later"), ["key"]),
    "a codec of records": (
        lambda t: t.block("records").update(codec="later"),
        ["first", "first original", "second"],
    ),
    "a kind of a restore blob": (lambda t: set_blob(t, 3), ["first original"]),
    "a flag of a restore blob": (lambda t: set_blob(t, 0x90), ["first original"]),
    "a flag of a record": (set_flags, ["first", "first original"]),
}


LEFT_OPEN = {"a codec of records": ["key", "label", "note"]}
"""What a reader may refuse as well: columns of a part that cannot tell its records."""


def answers(reader, root):
    """What a reader answers to each question, or the message by which it refuses a word."""
    opened, fetch, refused = READERS[reader]
    found = {}
    for name, what in QUESTIONS.items():
        try:
            ds = opened(root)
            column = isinstance(what, str)
            found[name] = plain_values(ds.column(what)) if column else fetch(ds, *what)
        except refused as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("changed", WORDS)
def test_unknown_fields_are_ignored_and_unknown_words_refused(taken, reader, changed):
    change, refused = WORDS[changed]
    before = answers(reader, taken.root)
    change(taken)
    taken.write()
    after = answers(reader, taken.root)
    for name in refused:
        assert re.search("upgrade pcrstore|newer pcrstore", after[name])
    same = before.keys() - set(refused) - set(LEFT_OPEN.get(changed, []))
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def edited(t, name, edit):
    """Change the raw bytes of the only page of a block of the first part."""
    block = t.block(name)
    (page,) = block["stored"]
    page = zlib.decompress(page) if block["codec"] == "zlib" else page
    block |= {"codec": "none", "stored": [edit(page)]}


def set_value(name, dtype, value):
    """A change of the first value of a column."""
    new = np.array(value, dtype).tobytes()
    return lambda t: edited(t, name, lambda page: new + page[len(new) :])


def repeat(field):
    """A change of a field of the second record, to what the first has."""

    def change(t):
        block = t.block("records")
        dtype = [(name, kind, (n,)) for name, kind, n in block["fields"]]
        rows = np.frombuffer(block["stored"][0], dtype).copy()
        rows[field][1] = rows[field][0]
        block["stored"] = [rows.tobytes()]

    return change


def extra_column(dtype, shape, page, *, nulls=False):
    """A change that adds a column whose values are as they are."""

    def change(t):
        t.manifest["columns"].append({"name": "bad", "dtype": dtype, "shape": shape})
        t.add("bad", "column", page, dtype=dtype, shape=shape, nulls=nulls)

    return change


def set_spare_bit(t):
    """A bit of an opaque image that is none: the header's bit 1, of one image."""
    path, at, record = place(t, 0)
    tail = record.header[8:12] + b"\2" + record.header[13:]
    rewrite_header(t, path, at, record, tail)


def set_padding(t):
    """A byte behind the end of a run in its last chunk; an object has none, so one more there."""
    run = t.parts[0]["objects"][0]
    if "chunk" not in run:
        path = t.root / run["name"]
        path.write_bytes(path.read_bytes() + b"\1")
        return
    last, used = divmod(run["bytes"], run["chunk"])
    assert used
    put(t.root / run["name"] / "c" / str(last), run["chunk"] - 1, b"\1")


DAMAGE = {
    "groups of another script": lambda t: t.manifest.update(groups=["later"] * 5),
    "a class twice": lambda t: t.manifest.update(classes=["cat", "cat"]),
    "a column twice": lambda t: t.manifest["columns"].append(t.manifest["columns"][0]),
    "a total of sources": lambda t: t.manifest["bytes"].update(sources=1),
    "a total of headers": lambda t: t.manifest["bytes"].update(headers=1),
    "a report that is not checked": lambda t: t.manifest["checked"].clear(),
    "a system column of another type": lambda t: t.manifest["columns"][1].update(dtype="<i8"),
    "a column of nulls": lambda t: t.block("label").update(nulls=True),
    "uid of a part": lambda t: t.parts[0].update(uid="0" * 32),
    "unused bytes": lambda t: t.parts[0]["objects"][0].update(unused=1),
    "a record at another's place": repeat("start"),
    "a record of another's number": repeat("ordinal"),
    "a label": set_value("label", "<i4", 2),
    "a split": set_value("split", "|u1", 2),
    "an orientation": set_value("orientation", "|u1", 9),
    "a width of 0": set_value("width", "<u4", 0),
    "an opaque format": set_value("format", "|u1", 1),
    "a boolean": extra_column("|b1", [], b"\0\1\2"),
    "no JSON": extra_column("json", [], struct.pack("<3I", 1, 1, 1) + b"12{"),
    "no UTF-8": extra_column("utf8", [], struct.pack("<3I", 1, 0, 0) + b"\xff"),
    "a byte too many": extra_column("|u1", [], b"\0\1\2\3"),
    "a null value that is not 0": extra_column("|u1", [], b"\3\0\1\2", nulls=True),
    "a null list of rows": extra_column(
        "|u1", [None], b"\3" + struct.pack("<3I", 0, 0, 1) + b"\0", nulls=True
    ),
    "a spare bit of a header": set_spare_bit,
    "bytes behind a run": set_padding,
}


@pytest.mark.parametrize("broken_rule", DAMAGE)
def test_broken_rules_are_found_by_both_readers(taken, broken_rule):
    second_reader.Dataset(taken.root).check()
    DAMAGE[broken_rule](taken)
    taken.write()
    with pytest.raises(second_reader.DamagedError):
        second_reader.Dataset(taken.root).check()
    assert pcrstore.verify(str(taken.root)).faults
