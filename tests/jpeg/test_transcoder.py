"""Transcoding there and back, for every kind of file, against jpegtran as an oracle."""

import csv
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_files import (
    KINDS,
    has_transcoder,
    jpegtran,
    make,
    needs_jpegtran,
    sample_files,
    segment,
    with_scans,
)
from PIL import Image
from recodable import (
    BY_JPEGTRAN,
    COM,
    EXIF,
    FILES,
    ICC,
    ONE_GROUP,
    WITH_SCANS,
    by_jpegtran,
    eob_table,
    flat,
    spoiled_padding,
    with_metadata,
)

from pcrstore.errors import (
    DamagedJpegError,
    FormatError,
    JpegError,
    LimitError,
    MissingDependencyError,
    UnsupportedJpegError,
)
from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.parser import identity_segments, metadata_segments, parse
from pcrstore.jpeg.restore import Kind, split_ecs
from pcrstore.jpeg.scan_script import BUILTIN, DEFAULT
from pcrstore.jpeg.transcoder import Limits, original, require, transcode

pytestmark = pytest.mark.skipif(
    not has_transcoder(), reason="the C transcoder is not built (setup.py)"
)

SCRIPTS = {**BUILTIN, "one": ONE_GROUP}


def full(groups):
    """The file of all groups, as a reader assembles it."""
    return b"".join(groups) + EOI


def check(data, script, kind=None):
    """Everything that must hold of a transcoded file; returns it."""
    done = transcode(data, script)
    assert original(done.groups, done.restore) == data
    assert len(done.groups) == script.n_groups
    parsed, written = parse(data), parse(full(done.groups))
    assert done.groups[0].startswith(SOI + identity_segments(data, parsed))
    if script.n_groups > 1:
        metadata = metadata_segments(data, parsed)
        assert done.groups[-1].startswith(metadata)
        assert written.scans[0].ecs_start <= len(done.groups[0])
        for group in done.groups:
            assert group[-2:] != EOI
    assert written.frame.components == parsed.frame.components
    assert (written.frame.width, written.frame.height) == (done.width, done.height)
    assert (parsed.frame.width, parsed.frame.height) == (done.width, done.height)
    assert done.n_components == len(parsed.frame.components)
    assert written.model == parsed.model
    assert written.frame.sof == 0xC2
    assert kind is None or done.kind == kind
    return done


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
@pytest.mark.parametrize(("source", "kind"), FILES.values(), ids=FILES.keys())
def test_a_file_is_transcoded_and_comes_back(source, kind, script):
    check(source(), script, kind)


@needs_jpegtran
@pytest.mark.parametrize(("source", "_"), FILES.values(), ids=FILES.keys())
def test_jpegtran_makes_the_same_file_of_the_source_and_of_the_groups(source, _):
    data = source()
    for script in (DEFAULT, BUILTIN["standard"]):
        groups = transcode(data, script).groups
        optimised = jpegtran(full(groups), "-copy", "none", "-optimize")
        assert optimised == jpegtran(data, "-copy", "none", "-optimize")


@needs_jpegtran
@pytest.mark.parametrize(("arguments", "kind"), BY_JPEGTRAN.values(), ids=BY_JPEGTRAN.keys())
def test_what_jpegtran_writes_comes_back(arguments, kind):
    check(by_jpegtran(*arguments), DEFAULT, kind)


@needs_jpegtran
@pytest.mark.parametrize(
    ("of", "scans", "arguments", "kind"), WITH_SCANS.values(), ids=WITH_SCANS.keys()
)
def test_sources_with_scans_of_their_own_come_back(of, scans, arguments, kind, tmp_path):
    (tmp_path / "scans").write_text(scans)
    data = jpegtran(make(of), "-scans", str(tmp_path / "scans"), *arguments)
    assert len(parse(data).scans) == scans.count(";")
    done = check(data, DEFAULT, kind)
    optimised = jpegtran(full(done.groups), "-copy", "none", "-optimize")
    assert optimised == jpegtran(data, "-copy", "none", "-optimize")


@needs_jpegtran
@pytest.mark.parametrize("kind", KINDS)
def test_the_scans_are_byte_for_byte_those_of_jpegtran(kind, tmp_path):
    data = make(kind)
    parsed = parse(data)
    for script in BUILTIN.values():
        expected = with_scans(data, script.expand(parsed.frame, parsed.model), tmp_path)
        _, segments = split_ecs(expected, parse(expected))
        output = full(transcode(data, script).groups)
        assert split_ecs(output, parse(output))[1] == segments


def from_frame(data):
    """A file from its frame header on."""
    return data[next(s.start for s in parse(data).segments if s.marker == 0xC2) :]


def assert_progression(source):
    """The groups of `standard-10` are the scans that `jpegtran -progressive` writes."""
    groups = transcode(source, BUILTIN["standard-10"]).groups
    theirs = jpegtran(source, "-copy", "none", "-progressive")
    metadata = metadata_segments(source, parse(source))
    ours = full((*groups[:-1], groups[-1].removeprefix(metadata)))
    assert from_frame(ours) == from_frame(theirs)
    scans = parse(theirs).scans
    edges = [len(full(groups[:k])) - len(EOI) for k in range(1, 10)]
    behind = len(ours) - len(theirs)  # JFIF may have a thumbnail in one of them, say
    assert edges == [scan.ecs_stop + behind for scan in scans[:-1]]


@needs_jpegtran
@pytest.mark.parametrize("kind", ["444", "422", "420", "440", "411"])
def test_standard_10_is_what_jpegtran_progressive_writes(kind):
    assert_progression(make(kind))
    assert_progression(with_metadata(make(kind, progressive=True), EXIF, COM))


@needs_jpegtran
def test_standard_10_of_photos_is_what_jpegtran_progressive_writes():
    for path in sample_files("imagenet-sample", "*.[jJ]*")[::25]:
        if transcode(path.read_bytes(), DEFAULT).n_components == 3:
            assert_progression(path.read_bytes())


def test_equal_bytes_by_other_tables_are_kept():
    """By the other table 0 0 is EOB0, twice; whoever codes by it finds no code for EOB1."""
    assert transcode(flat(), DEFAULT).kind == Kind.RECODED
    check(flat().replace(eob_table(0x10), eob_table(0x00)), DEFAULT, Kind.STORED)


def test_a_table_with_a_symbol_more_is_not_what_libjpeg_writes():
    check(flat().replace(eob_table(0x10), eob_table(0x10, 0x00)), DEFAULT, Kind.STORED)


def test_a_table_for_several_scans_is_in_force_at_each():
    """libjpeg writes one for each scan; the file may do without those that say the same."""
    first, rest = flat().split(eob_table(0x10), 1)
    data = first + eob_table(0x10) + rest.replace(eob_table(0x10), b"")
    assert len(data) == len(flat()) - 3 * len(eob_table(0x10))
    check(data, DEFAULT, Kind.RECODED)


@needs_jpegtran
def test_a_restart_interval_that_changes_between_scans_costs_the_entropy_coded_bytes(tmp_path):
    (tmp_path / "scans").write_text("0; 1; 2;")
    data = jpegtran(make("420"), "-scans", str(tmp_path / "scans"), "-restart", "3B")
    scan = parse(data).scans[1]
    longer = segment(0xDD, b"\x7f\xff")  # longer than the scan, which then must have no restarts
    plain = jpegtran(make("420"), "-scans", str(tmp_path / "scans"))
    other = parse(plain).scans
    edited = data[: scan.sos] + longer + plain[other[1].sos : other[2].ecs_stop] + EOI
    check(edited, DEFAULT, Kind.STORED)


def test_groups_end_with_their_scans():
    data = make("420")
    specs = DEFAULT.expand(parse(data).frame, parse(data).model)
    groups = transcode(data, DEFAULT).groups
    for g in range(1, len(groups) + 1):
        scans = parse(b"".join(groups[:g]) + EOI).scans
        assert len(scans) == sum(spec.group < g for spec in specs)


def test_metadata_is_in_the_last_group_alone():
    data = with_metadata(make("420"), EXIF, ICC, COM)
    groups = transcode(data, DEFAULT).groups
    assert groups[-1].startswith(EXIF + ICC + COM)
    assert sum(map(len, groups[:-1])) == sum(map(len, transcode(make("420"), DEFAULT).groups[:-1]))


def test_metadata_of_a_single_group_stands_behind_the_identity():
    data = with_metadata(make("420"), EXIF, ICC)
    (group,) = transcode(data, ONE_GROUP).groups
    assert group.startswith(SOI + make("420")[2:20] + EXIF + ICC)


def test_metadata_is_stored_once():
    plain = len(transcode(make("420"), DEFAULT).restore)
    with_it = len(transcode(with_metadata(make("420"), EXIF, ICC, COM), DEFAULT).restore)
    assert plain < 60
    assert with_it < plain + 20


def test_orientation_is_read():
    assert transcode(with_metadata(make("420"), EXIF), DEFAULT).orientation == 6
    assert transcode(make("420"), DEFAULT).orientation == 1


def test_sixteen_bit_quantisation_tables_survive():
    data = make("grey")
    table = parse(data).segments[1]
    assert table.marker == 0xDB
    values = data[table.start + 5 : table.stop]
    wide = segment(
        0xDB, b"\x10" + b"".join((v + 256 * (v == max(values))).to_bytes(2) for v in values)
    )
    data = data[: table.start] + wide + data[table.stop :]
    done = check(data.replace(b"\xff\xc0", b"\xff\xc1"), DEFAULT, Kind.RECODED)
    assert wide in done.groups[0]


def test_a_quantisation_table_that_changes_between_scans_is_unsupported():
    data = make("420", progressive=True)
    table = next(s for s in parse(data).segments if s.marker == 0xDB)
    second = parse(data).scans[0].ecs_stop
    other = segment(0xDB, data[table.start + 4 : table.stop - 1] + b"\x01")
    with pytest.raises(UnsupportedJpegError, match="multiple use of quantization table"):
        transcode(data[:second] + other + data[second:], DEFAULT)


UNSUPPORTED = {
    "empty": b"",
    "png": b"\x89PNG\r\n\x1a\n" * 9,
    "lossless": make("grey").replace(b"\xff\xc0", b"\xff\xc3"),
    "arithmetic": make("grey").replace(b"\xff\xc0", b"\xff\xc9"),
    "12-bit": make("grey").replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc1\x00\x0b\x0c"),
    "height-0": make("grey").replace(
        b"\xff\xc0\x00\x0b\x08\x00\x4b", b"\xff\xc0\x00\x0b\x08\x00\x00"
    ),
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_a_file_of_another_kind_is_unsupported(data):
    with pytest.raises(UnsupportedJpegError):
        transcode(data, DEFAULT)


@needs_jpegtran
def test_a_whole_arithmetic_file_is_unsupported():
    with pytest.raises(UnsupportedJpegError, match="arithmetic"):
        transcode(by_jpegtran("420", "-arithmetic"), DEFAULT)


def test_what_libjpeg_only_warns_about_is_damage():
    data = make("420")
    scan = parse(data).scans[0]
    with pytest.raises(DamagedJpegError, match=r"Corrupt JPEG data: .* extraneous bytes"):
        transcode(data[: scan.ecs_stop] + b"abc" * 20 + EOI, DEFAULT)
    with pytest.raises(DamagedJpegError, match="Corrupt JPEG data: premature end"):
        transcode(data[: scan.ecs_stop - 40] + EOI, DEFAULT)


def test_limits_hold_on_either_side():
    data = make("420")
    n = len(data)
    held = 2 * 128 * (10 * 14 + 2 * 5 * 7)
    assert transcode(
        data, DEFAULT, Limits(max_bytes=n, max_pixels=7575, max_scans=1, max_memory=held)
    )
    for limits in (
        Limits(max_bytes=n - 1),
        Limits(max_pixels=7574),
        Limits(max_memory=held - 1),
    ):
        with pytest.raises(LimitError):
            transcode(data, DEFAULT, limits)
    with pytest.raises(LimitError):
        transcode(make("420", progressive=True), DEFAULT, Limits(max_scans=9))
    with pytest.raises(FrozenInstanceError):
        Limits().max_bytes = 1


def test_original_obeys_limits():
    data = make("420")
    done = transcode(data, DEFAULT)
    with pytest.raises(LimitError):
        original(done.groups, done.restore, Limits(max_pixels=7574))
    # The limit is on scans of the source, of which this one has one; the groups have more.
    assert original(done.groups, done.restore, Limits(max_scans=1)) == data
    whole = transcode(make("420", progressive=True), DEFAULT)
    with pytest.raises(LimitError):
        original(whole.groups, whole.restore, Limits(max_scans=9))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda g: g[:-1], id="last-missing"),
        pytest.param(lambda g: (*g[:2], *g[3:]), id="middle-missing"),
        pytest.param(lambda g: (*g[:3], g[4], g[3]), id="swapped"),
        pytest.param(lambda g: (g[0][:-9] + bytes(9), *g[1:]), id="changed"),
        pytest.param(lambda _: transcode(make("444"), DEFAULT).groups, id="another-image"),
    ],
)
def test_other_groups_never_give_a_wrong_file(change):
    data = with_metadata(make("420"), EXIF, COM)
    done = transcode(data, DEFAULT)
    with pytest.raises(FormatError):
        original(change(done.groups), done.restore)


def test_a_changed_blob_never_gives_a_wrong_file():
    for data in (make("420", 20, 20), make("grey", 20, 20, progressive=True), spoiled_padding()):
        done = transcode(data, DEFAULT)
        for at in range(len(done.restore)):
            blob = bytearray(done.restore)
            blob[at] ^= 0x55
            with pytest.raises((FormatError, LimitError)):
                original(done.groups, bytes(blob))


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_every_truncation_is_an_error(progressive):
    data = with_metadata(make("420", 21, 19, progressive=progressive), EXIF)
    for stop in range(len(data)):
        with pytest.raises(JpegError):
            transcode(data[:stop], DEFAULT)


def test_random_damage_gives_the_damaged_file_back_or_an_error():
    rng = random.Random(3)  # noqa: S311 - damage, not secrets
    kept = 0
    for data in (make("420", 40, 35), make("cmyk", 17, 23, progressive=True)):
        for _ in range(1000):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] = rng.randrange(256)
            try:
                done = transcode(bytes(damaged), DEFAULT, Limits(max_pixels=1 << 22))
            except JpegError:
                continue
            kept += 1
            assert original(done.groups, done.restore) == damaged
    assert kept > 0


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    kind=st.sampled_from([k for k in KINDS if k not in ("440", "411")]),
    coded=st.tuples(st.booleans(), st.integers(1, 100)),
    script=st.sampled_from(sorted(SCRIPTS)),
    trailing=st.binary(max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_any_image_comes_back(size, kind, coded, script, trailing):
    progressive, quality = coded
    data = make(kind, *size, progressive=progressive, quality=quality) + trailing
    done = transcode(data, SCRIPTS[script])
    assert original(done.groups, done.restore) == data


def test_without_the_extension_the_module_imports_and_says_what_to_install():
    code = (
        "import sys; sys.modules['pcrstore._native._transcoder'] = None\n"
        "from pcrstore import errors\nfrom pcrstore.jpeg import transcoder as transcode\n"
        "try: transcode.require()\n"
        "except errors.MissingDependencyError as e: print(e)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "libjpeg-dev" in run.stdout
    assert "compiler" in run.stdout
    require()  # here it is
    assert issubclass(MissingDependencyError, ImportError)


def test_odd_files_have_the_outcome_of_their_class():
    for manifest in sample_files("odd-jpegs", "MANIFEST.csv"):
        for row in csv.DictReader(manifest.read_text().splitlines()):
            data = (manifest.parent / row["file"]).read_bytes()
            for script in BUILTIN.values():
                if row["class_"] == "clean":
                    check(data, script)
                    continue
                with pytest.raises(JpegError):
                    transcode(data, script)


@needs_jpegtran
@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "pattern"), [("imagenet-sample", "*.*"), ("clothing-small", "*.jpg")]
)
def test_real_files_are_lossless_and_come_back(folder, pattern):
    files = sample_files(folder, pattern)
    for path in files[:: max(1, len(files) // 250)]:
        data = path.read_bytes()
        groups = check(data, DEFAULT).groups
        optimised = jpegtran(full(groups), "-copy", "none", "-optimize")
        assert optimised == jpegtran(data, "-copy", "none", "-optimize"), path


def test_the_result_decodes_to_the_same_pixels(tmp_path):
    for kind in KINDS:
        data = make(kind)
        (tmp_path / "a.jpg").write_bytes(data)
        (tmp_path / "b.jpg").write_bytes(full(transcode(data, DEFAULT).groups))
        with Image.open(tmp_path / "a.jpg") as a, Image.open(tmp_path / "b.jpg") as b:
            assert a.mode == b.mode
            assert a.tobytes() == b.tobytes()
