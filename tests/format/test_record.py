"""A record is one prefix per fidelity, and no damaged or misplaced byte of it is handed out."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.checksum import crc32c, record_seed
from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError
from pcrstore.format.record import (
    MAX_IMAGES,
    Header,
    RecordImage,
    build_record,
    header_size,
    parse_header,
)

SEED = record_seed(bytes(16), 3)
WHERE = "objects/a.pcr, record 3"


def image(*groups, opaque=False, restore=b"r"):
    return RecordImage(groups=groups, restore=restore, opaque=opaque)


IMAGES = (
    image(b"\xff\xd8one", b"two", b"three"),
    image(b"a whole file", b"", b"", opaque=True, restore=b""),
    image(b"\xff\xd8x", b"yy", b"", restore=b"another blob"),
)


def parse(data, *, seed=SEED, n_images=3, n_groups=3):
    return parse_header(data, seed=seed, n_images=n_images, n_groups=n_groups, where=WHERE)


def encode(images=IMAGES, seed=SEED):
    header, regions = build_record(images, seed=seed)
    return header, header.encode() + b"".join(regions)


def test_the_header_is_that_of_the_format():
    _, data = encode()
    cells = [im.groups for im in IMAGES]
    body = struct.pack("<HBB", 3, 3, 0) + b"\x02"
    body += struct.pack("<9I", *(len(c) for row in cells for c in row))
    words = [(SEED + i * 0x9E3779B1 + g * 0x85EBCA6B) % 2**32 for i in range(3) for g in range(3)]
    sums = [crc32c(c) ^ w for c, w in zip((c for row in cells for c in row), words, strict=True)]
    body += struct.pack("<9I", *sums)
    expected = b"PCR1" + struct.pack("<I", crc32c(body) ^ SEED) + body
    assert data[: len(expected)] == expected
    assert data[len(expected) :] == (
        b"\xff\xd8one" + b"a whole file" + b"\xff\xd8x" + b"two" + b"yy" + b"three"
        b"r" + b"another blob"
    )


@pytest.mark.parametrize("n_images", [1, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("n_groups", [1, 7])
def test_the_size_of_a_header_is_known_beforehand(n_images, n_groups):
    header, _ = build_record([image(*[b"c"] * n_groups)] * n_images, seed=SEED)
    assert len(header.encode()) == header.size == header_size(n_images, n_groups)


def test_the_largest_record_round_trips():
    n = MAX_IMAGES
    header = Header(
        seed=SEED,
        opaque=np.arange(n) % 3 == 0,
        lengths=np.full((n, 1), 2**32 - 1, np.uint32),
        checksums=np.arange(n, dtype=np.uint32)[:, None],
    )
    again = parse(header.encode(), n_images=n, n_groups=1)
    assert np.array_equal(again.opaque, header.opaque)
    assert np.array_equal(again.lengths, header.lengths)
    assert np.array_equal(again.checksums, header.checksums)
    assert again.group_lengths().tolist() == [n * (2**32 - 1)]
    assert int(again.starts()[-1, 0]) == (n - 1) * (2**32 - 1)


cells = st.binary(max_size=9)
records = st.integers(1, 4).flatmap(
    lambda g: st.lists(
        st.builds(
            lambda groups, restore, opaque: RecordImage(
                groups=tuple(groups), restore=restore, opaque=opaque
            ),
            st.lists(cells, min_size=g, max_size=g),
            cells,
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)


def in_bytes(views):
    return [[cell.tobytes() for cell in cells] for cells in views]


@settings(max_examples=60)
@given(images=records, seed=st.integers(0, 2**32 - 1))
def test_every_prefix_cuts_to_the_cells_that_were_put_in(images, seed):
    n_groups = len(images[0].groups)
    built, regions = build_record(images, seed=seed)
    data = built.encode() + b"".join(regions)
    header = parse(data, seed=seed, n_images=len(images), n_groups=n_groups)
    assert header.opaque.tolist() == [im.opaque for im in images]
    for k in range(1, n_groups + 1):
        body = data[header.size : header.size + int(header.group_lengths()[:k].sum())]
        expected = [list(im.groups[:k]) for im in images]
        assert in_bytes(header.cut(body, k, where=WHERE)) == expected
        prefix = data[: header.size + len(body)]
        assert in_bytes(header.cut(prefix, k, where=WHERE, start=header.size)) == expected
        for wrong in (body[:-1], body + b"x"):
            if wrong != body:
                with pytest.raises(ChecksumError, match="must have"):
                    list(header.cut(wrong, k, where=WHERE))
    for i, starts in enumerate(header.starts()):
        for g, start in enumerate(starts.tolist()):
            cell = regions[g][start : start + int(header.lengths[i, g])]
            assert cell == images[i].groups[g]
            header.check(i, g, cell, where=WHERE)


def test_every_flipped_bit_of_a_record_is_detected():
    header, data = encode()
    n = header.size + int(header.group_lengths().sum())
    for at in range(n):
        for bit in range(8):
            bad = bytearray(data[:n])
            bad[at] ^= 1 << bit
            with pytest.raises(FormatError):
                list(parse(bytes(bad)).cut(bytes(bad[header.size :]), 3, where=WHERE))


def test_every_truncation_of_a_header_is_detected():
    header, data = encode()
    for n in range(header.size):
        with pytest.raises(ChecksumError, match="record header must have"):
            parse(data[:n])


@pytest.mark.parametrize("byte", [0, 255], ids=["zeros", "ones"])
def test_runs_of_zeros_or_ones_are_detected(byte):
    """A hole in a sparse file, a block that was never written: CRC32C catches any burst of 32."""
    header, data = encode()
    n = header.size + int(header.group_lengths().sum())
    for start in range(n):
        for length in (2, 4, 16, n):
            bad = data[:start] + bytes([byte]) * min(length, n - start) + data[start + length : n]
            bad = bad[:n]
            if bad == data[:n]:
                continue
            with pytest.raises(FormatError):
                list(parse(bad).cut(bad[header.size :], 3, where=WHERE))


def test_another_record_is_refused():
    _, data = encode(seed=record_seed(bytes(16), 4))
    with pytest.raises(ChecksumError, match="record header fails its checksum"):
        parse(data)


def test_the_same_record_of_another_object_is_refused():
    _, data = encode(seed=record_seed(bytes(15) + b"\x01", 3))
    with pytest.raises(ChecksumError, match="record header fails its checksum"):
        parse(data)


@pytest.mark.parametrize("claim", [(2, 3), (4, 3), (3, 2), (3, 4)])
def test_a_header_of_another_shape_is_refused(claim):
    _, data = encode()
    with pytest.raises(FormatError):
        parse(data + bytes(500), n_images=claim[0], n_groups=claim[1])


def test_flags_of_a_later_version_are_refused():
    header, data = encode()
    body = bytearray(data[8 : header.size])
    body[3] = 1
    forged = b"PCR1" + struct.pack("<I", crc32c(bytes(body)) ^ SEED) + bytes(body)
    with pytest.raises(UnsupportedFormatError, match=f"{WHERE}: .*flags 0x01.*upgrade pcrstore"):
        parse(forged)


def test_equal_cells_that_swap_places_are_detected():
    """Same length, so that only the bound checksum can tell."""
    same = [image(b"\xff\xd8ab", b"ef"), image(b"\xff\xd8cd", b"gh")]
    header, regions = build_record(same, seed=SEED)
    for a, b in ((0, 0), (1, 1)):
        swapped = list(regions)
        half = len(swapped[a]) // 2
        swapped[a] = swapped[b][half:] + swapped[b][:half]
        with pytest.raises(ChecksumError, match=f"image 0, group {a + 1} fails its checksum"):
            list(header.cut(b"".join(swapped[:2]), 2, where=WHERE))


def test_the_same_cell_elsewhere_is_refused():
    twins = [image(b"same", b"same"), image(b"same", b"same")]
    header, _ = build_record(twins, seed=SEED)
    assert len(set(header.checksums.ravel().tolist())) == 4


def test_an_error_says_where():
    header, data = encode()
    body = bytearray(data[header.size : header.size + int(header.group_lengths().sum())])
    body[-1] ^= 1
    with pytest.raises(ChecksumError, match=r"objects/a\.pcr, record 3: image 0, group 3 fails"):
        list(header.cut(bytes(body), 3, where=WHERE))
