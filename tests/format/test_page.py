"""Section 8 of FORMAT.md: the dataset that is printed there, and the test vectors."""

import re

import page_examples
import pytest
import second_reader
from page_examples import BETWEEN, PAGE

import pcrstore
from pcrstore.core import crc32c, place_words, record_seed
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.format import (
    Column,
    RecordImage,
    build_record,
    decode_latest,
    decode_manifest,
    encode_latest,
    parse_header,
)
from pcrstore.format.column_values import pack_values, unpack_values
from pcrstore.jpeg import unpack_blob

SECTION = BETWEEN.search(PAGE.read_text())[0]
UID, SEED = bytes(range(16)), 0xA6C72EC8
SOURCE = b"\xff\xd8" + second_reader.K33[:33] + b"\xff\xd9"


def printed() -> dict[str, bytes]:
    """Name -> bytes of the objects on the page."""
    objects, name = {}, ""
    for paragraph in SECTION.split("\n\n"):
        heading = re.fullmatch(r"`([^`]+)`.*:", paragraph)
        if heading:
            name = heading[1]
            objects[name] = b""
        elif paragraph.startswith("    "):
            for line in paragraph.splitlines():
                objects[name] += bytes_of(line[4:], len(objects[name]))
    return objects


def bytes_of(line: str, at: int) -> bytes:
    """The bytes of a line of text, or of a line of a dump at an offset."""
    dump = re.fullmatch(r" *([0-9]+)  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(  .*)?", line)
    if dump is None:
        return f"{line}\n".encode()
    assert int(dump[1]) == at
    return bytes.fromhex(dump[2])


OBJECTS = printed()
VECTORS = dict(re.findall(r"^\| (.+) \| `(.+)` \|$", SECTION, re.MULTILINE))


def vector(words: str) -> str:
    """The value of the vector whose name begins with these words."""
    (value,) = [value for name, value in VECTORS.items() if name.startswith(words)]
    return value


def stored(root, objects):
    for name, data in objects.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_the_page_is_as_its_script_writes_it():
    assert page_examples.section() == SECTION


def test_pcrstore_reads_the_dataset_on_the_page(tmp_path):
    ds = pcrstore.open(str(stored(tmp_path, OBJECTS)))
    assert (ds.version, ds.n_groups, ds.keys, ds.labels.tolist()) == (1, 2, ["a.bin"], [-1])
    for fidelity in (1, 2, "original"):
        assert ds.fetch([0], fidelity=fidelity) == [b"abc"]
    report = pcrstore.verify(str(tmp_path))
    assert (report.faults, report.unreferenced) == ((), ())
    assert (report.versions, report.n_objects, report.n_images) == ((1,), 4, 1)


def test_the_second_reader_reads_the_dataset_on_the_page(tmp_path):
    ds = second_reader.Dataset(stored(tmp_path, OBJECTS))
    ds.check()
    assert (ds.version, ds.n_groups, ds.column("key")) == (1, 2, ["a.bin"])
    assert [ds.jpeg(0, 1), ds.jpeg(0, 2), ds.original(0)] == [b"abc"] * 3
    assert [*second_reader.recovered(OBJECTS["objects/example.pcr"])] == [[b"abc"]]
    assert second_reader.newest_without_list(tmp_path) == 1


def checked(root):
    second_reader.newest_without_list(root)
    second_reader.Dataset(root).check()


@pytest.mark.parametrize("name", OBJECTS)
def test_a_changed_byte_anywhere_is_found_by_both_readers(tmp_path, name):
    stored(tmp_path, OBJECTS)
    data = OBJECTS[name]
    for at in range(0, len(data), 1 + len(data) // 50):
        (tmp_path / name).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert pcrstore.verify(str(tmp_path)).faults, at
        with pytest.raises(second_reader.RefusedError):
            checked(tmp_path)


def test_vector_of_crc32c():
    expected = int(vector("CRC32C"), 16)
    assert crc32c(b"123456789") == second_reader.crc(b"123456789") == expected


def test_vector_of_a_manifest():
    data = vector("first line").encode() + b"\n{}"
    with pytest.raises(FormatError, match="missing required field") as caught:
        decode_manifest(data, where="m", version=1)
    assert not isinstance(caught.value, ChecksumError)
    with pytest.raises(ChecksumError):
        decode_manifest(data.replace(b"=2", b"=3", 1), where="m", version=1)
    assert int(vector("first line")[28:36], 16) == second_reader.crc(b"{}")


def test_vector_of_latest():
    data = f"{vector('`latest`')}\n".encode()
    assert encode_latest(12) == data
    assert decode_latest(data, where="latest") == 12
    text, _, checksum = vector("`latest`").partition(" crc32c=")
    assert second_reader.crc(text.encode()) == int(checksum, 16)


def test_vector_of_a_seed():
    assert int(vector("seed, of"), 16) == record_seed(UID, 5) == SEED
    assert second_reader.crc(UID + b"\x05" + bytes(7)) == SEED


def test_vector_of_a_cell():
    expected = int(vector("checksum of cell"), 16)
    assert int(place_words(SEED, 4, 3)[3, 2]) ^ crc32c(b"abc") == expected
    word = (SEED + 3 * 0x9E3779B1 + 2 * 0x85EBCA6B) & 0xFFFFFFFF
    assert second_reader.crc(b"abc") ^ word == expected


def test_vector_of_a_header():
    data = bytes.fromhex(vector("header, under"))
    images = [
        RecordImage(groups=(b"abc", b"d"), restore=b"", opaque=False),
        RecordImage(groups=(b"abc", b""), restore=b"", opaque=True),
    ]
    header, regions = build_record(images, seed=SEED)
    assert header.encode() == data
    read = parse_header(data, seed=SEED, n_images=2, n_groups=2, where="header")
    assert read.lengths.tolist() == [[3, 1], [3, 0]]
    opaque, sizes, checksums = second_reader.parse_header(data, SEED)
    assert opaque == read.opaque.tolist() == [False, True]
    cells = second_reader.cells_of(regions[:2], sizes, checksums, SEED)
    assert cells == [[b"abc", b"d"], [b"abc", b""]]


def test_vector_of_a_column():
    data, values = bytes.fromhex(vector("page of")), [["a", "\u00e9"], None, []]
    column = Column(name="tags", dtype="utf8", shape=(None,))
    assert pack_values(column, values, nulls=True) == data
    assert unpack_values(column, data, 3, nulls=True, where="page") == values
    assert second_reader.page_values(data, 3, "utf8", [None], nulls=True) == values


@pytest.mark.parametrize(
    ("words", "source", "cell"),
    [
        ("restore blob", b"abc", b"\xff\xd8\xff\xda"),
        ("the same of", SOURCE, b"\xff\xd8\xff\xda"),
    ],
    ids=["stored", "deflated"],
)
def test_vector_of_a_restore_blob(words, source, cell):
    data = bytes.fromhex(vector(words))
    blob = unpack_blob(data, [cell, b""], max_bytes=100)
    assert (blob.kind, blob.checksum, blob.skeleton) == (0, crc32c(source), source)
    assert second_reader.restored([cell, b""], data) == source


def test_the_preset_dictionary_is_that_of_the_page():
    lines = re.findall(r"^    ([0-9a-f]{2,})$", PAGE.read_text(), re.MULTILINE)
    assert bytes.fromhex("".join(lines)) == second_reader.K33
