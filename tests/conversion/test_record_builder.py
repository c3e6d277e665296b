"""A record depends on its task and files alone; a file that cannot be built says why."""

import io

import numpy as np
import pytest
from built_records import GOOD, build
from flows import DictStore, Pictures, arithmetic, padded, photo, png
from PIL import Image

from pcrstore.conversion.record_builder import encode_jpeg
from pcrstore.conversion.sources.folder import FolderSource
from pcrstore.errors import (
    AccessDeniedError,
    DecodeError,
    LimitError,
    SourceChangedError,
    TransientStoreError,
    UnsupportedJpegError,
)
from pcrstore.format.columns import COLUMNS
from pcrstore.format.record import parse_header
from pcrstore.jpeg.transcoder import Limits, original


def test_a_record_holds_every_image_and_its_columns():
    r = build(GOOD)
    assert r.n_images == 4
    assert r.problems == ()
    assert r.columns.keys() == {c.name for c in COLUMNS}
    assert r.columns["key"] == [k for k, _ in GOOD]
    assert np.asarray(r.columns["width"]).tolist() == [48] * 4
    assert np.asarray(r.columns["source_sha256"]).shape == (4, 32)
    h = parse_header(r.header, seed=7, n_images=4, n_groups=5, where="")
    views = h.cut(b"".join(r.regions[:5]), 5, where="")
    cells = [[cell.tobytes() for cell in of_image] for of_image in views]
    ends = np.cumsum(r.restore["length"]).tolist()
    blobs = [r.regions[5][b - n : b] for b, n in zip(ends, r.restore["length"], strict=True)]
    assert [original(c, b) for c, b in zip(cells, blobs, strict=True)] == [d for _, d in GOOD]


def test_a_record_is_the_same_however_it_is_read():
    one, many = (build(GOOD, source=Pictures(dict(GOOD), max_readers=n)) for n in (1, 8))
    assert one.regions == many.regions
    assert one.header == many.header
    assert build(GOOD, seed=8).header != build(GOOD).header
    assert build(GOOD, seed=8).regions == build(GOOD).regions


BAD = {
    "text": b"no image",
    "empty": b"",
    "one": b"\xff",
    "png": png(1),
    "cut": photo(9)[:-200],
    "arithmetic": arithmetic(),
    "tail": photo(9)[:2],
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_bad_file_stands_in_nobodys_way(name, at):
    files = [*GOOD[:at], ("bad", BAD[name]), *GOOD[at:]]
    refused = build(files)
    assert (refused.n_images, refused.header, set(refused.regions)) == (0, b"", {b""})
    assert [(p.key, p.outcome) for p in refused.problems] == [("bad", "refused")]
    skipped = build(files, "skip")
    assert skipped.columns["key"] == [k for k, _ in GOOD]
    assert skipped.regions == build(GOOD).regions
    opaque = build(files, "opaque")
    n = 4 if name == "empty" else 5
    assert opaque.n_images == n
    if n == 5:
        assert opaque.columns["key"] == [k for k, _ in files]
        assert np.asarray(opaque.columns["format"]).tolist()[at] == 1
    assert refused.problems[0].reason == skipped.problems[0].reason


def test_over_the_size_limit_nothing_is_read():
    class Unread(DictStore):
        def get(self, name, **_bound):
            raise AssertionError(f"read {name}")

    files = [("big.jpg", padded(photo(1), 5000))]
    r = build(files, "opaque", source=FolderSource(Unread()), limits=Limits(max_bytes=4999))
    assert [(p.outcome, "4999" in p.reason) for p in r.problems] == [("skipped", True)]
    assert build(files, limits=Limits(max_bytes=5000)).n_images == 1


@pytest.mark.parametrize("there", [[], [("0.jpg", photo(0) + b"x")], [("0.jpg", b"")]])
def test_a_source_that_changed_is_named(there):
    with pytest.raises(SourceChangedError, match=r"0\.jpg"):
        build([("0.jpg", photo(0))], "skip", source=FolderSource(DictStore(there)))


class ScriptedStore(DictStore):
    """Answers the reads of each object as scripted, the last answer for ever."""

    def __init__(self, answers):
        super().__init__()
        self.answers = {name: list(replies) for name, replies in answers.items()}
        self.n_reads = dict.fromkeys(answers, 0)

    def get(self, name, **_bound):
        self.n_reads[name] += 1
        replies = self.answers[name]
        return replies.pop(0) if len(replies) > 1 else replies[0]


MIXED_UP = {
    "short": [photo(1)[:-1]],
    "long": [photo(1) + b"x"],
    "empty": [b""],
    "other-bytes": [bytes(len(photo(1)))],
    "damaged": [photo(1)[:-200] + bytes(200)],
    "each-time-otherwise": [bytes(len(photo(1))), b"x" * len(photo(1)), photo(1)[:5]],
}


@pytest.mark.parametrize("policy", ["raise", "skip", "opaque", "encode"])
@pytest.mark.parametrize("wrong", MIXED_UP.values(), ids=MIXED_UP)
def test_a_read_that_went_wrong_is_no_fault_of_the_file(wrong, policy):
    store = ScriptedStore({"0.jpg": [photo(0)], "1.jpg": [*wrong, photo(1)]})
    r = build([("0.jpg", photo(0)), ("1.jpg", photo(1))], policy, source=FolderSource(store))
    assert r.problems == ()
    assert r.regions == build([("0.jpg", photo(0)), ("1.jpg", photo(1))]).regions
    assert store.n_reads == {"0.jpg": 1, "1.jpg": len(wrong) + 1}


@pytest.mark.parametrize("policy", ["raise", "skip", "opaque", "encode"])
def test_a_file_is_damaged_when_two_reads_agree(policy):
    bad = photo(9)[:-200]
    store = ScriptedStore({"bad": [bytes(len(bad)), bad]})
    r = build([("bad", bad)], policy, source=FolderSource(store))
    assert [p.key for p in r.problems] == ["bad"]
    assert store.n_reads == {"bad": 3}
    if policy == "opaque":
        assert r.regions[0].endswith(bad)


@pytest.mark.parametrize("policy", ["raise", "skip", "opaque", "encode"])
def test_a_file_that_reads_otherwise_each_time_is_not_judged(policy):
    n = len(photo(1))
    store = ScriptedStore({"1.jpg": [bytes([i]) * n for i in range(9)]})
    with pytest.raises(TransientStoreError, match=r"1\.jpg.*4 reads"):
        build([("1.jpg", photo(1))], policy, source=FolderSource(store))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_any_image_is_encoded(mode):
    out = io.BytesIO()
    if mode == "I;16":
        im = Image.fromarray(np.full((7, 9), 90 * 256, np.uint16))
    else:
        im = Image.new("RGB", (9, 7), (90, 90, 90)).convert(mode)
    assert im.mode == mode
    im.save(out, "TIFF")
    with Image.open(io.BytesIO(encode_jpeg(out.getvalue(), quality=90, max_pixels=63))) as got:
        assert got.format == "JPEG"
        assert got.size == (9, 7)
        if mode != "1":  # dithered
            assert abs(np.asarray(got.convert("L")).mean() - 90) < 2
    with pytest.raises(LimitError, match="62"):
        encode_jpeg(out.getvalue(), quality=90, max_pixels=62)


def test_what_pillow_does_not_read_is_not_encoded():
    for data in (b"", b"text", png(1)[:60]):
        with pytest.raises(DecodeError):
            encode_jpeg(data, quality=90, max_pixels=10**6)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_without_a_range_are_not_encoded(mode):
    out = io.BytesIO()
    Image.new(mode, (9, 7), 1).save(out, "TIFF")
    with pytest.raises(DecodeError, match=f"mode {mode}"):
        encode_jpeg(out.getvalue(), quality=90, max_pixels=63)


@pytest.mark.parametrize("policy", ["raise", "skip", "opaque", "encode"])
def test_a_store_that_denies_says_nothing_about_the_file(policy):
    """An expired token must not make a dataset of what was read before."""

    class Denying(DictStore):
        def get(self, name, **_bound):
            raise AccessDeniedError(f"{name}: the token has expired")

    with pytest.raises(AccessDeniedError, match="expired"):
        build([("0.jpg", photo(0))], policy, source=FolderSource(Denying()))


@pytest.mark.parametrize(("policy", "outcome"), [("raise", "refused"), ("opaque", "skipped")])
def test_a_source_may_say_that_a_file_cannot_be_read(policy, outcome):
    class Locked(Pictures):
        def read(self, file):
            if file.key == "1.jpg":
                raise UnsupportedJpegError("locked")
            return super().read(file)

    r = build(GOOD, policy, source=Locked(dict(GOOD)))
    assert [(p.key, p.reason, p.outcome) for p in r.problems] == [("1.jpg", "locked", outcome)]
