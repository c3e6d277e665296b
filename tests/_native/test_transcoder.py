"""The C transcoder by itself: what its Python callers check before is not checked for it here."""

import contextlib
import random
import resource
import threading
import time

import pytest
from jpeg_files import jpegtran, make, needs_jpegtran, segment

from pcrstore.errors import DamagedJpegError, JpegError, LimitError, UnsupportedJpegError
from pcrstore.jpeg.coding import pack_scan, read_coding
from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.restore import join_ecs, split_ecs
from pcrstore.jpeg.scan_script import BUILTIN, DEFAULT

native = pytest.importorskip(
    "pcrstore._native._transcoder", reason="the C transcoder is not built (setup.py)"
)

LIMITS = (1 << 28, 100, 1 << 30)
"""Pixels, scans, bytes of memory."""


def scans_of(data, script=DEFAULT):
    parsed = parse(data)
    return b"".join(
        pack_scan(s.components, (s.ss, s.se, s.ah, s.al))
        for s in script.expand(parsed.frame, parsed.model)
    )


def coding_of(data):
    return read_coding(data, parse(data)).packed


def transcode(data, *, insert=b"", scans=None, how=None, limits=LIMITS):
    return native.transcode(data, insert, scans_of(data) if scans is None else scans, how, *limits)


def coefficients(data):
    """The entropy-coded segments that a file's coefficients have in one coding, whatever theirs."""
    slots = bytes(len(parse(data).frame.components))
    return native.reencode(data, (scans_of(data, BUILTIN["al3"]), None, slots, 0), *LIMITS)


@pytest.mark.parametrize("kind", ["grey", "420", "cmyk"])
def test_stops_are_the_ends_of_the_scans(kind):
    output, stops, recoded = transcode(make(kind))
    parsed = parse(output)
    assert stops == [scan.ecs_stop for scan in parsed.scans]
    assert parsed.eoi == stops[-1] == len(output) - 2
    assert recoded is None


def test_what_is_inserted_stands_behind_soi():
    comment = segment(0xFE, b"hello" * 5000)
    plain, _, _ = transcode(make("420"))
    output, stops, _ = transcode(make("420"), insert=comment)
    assert output == SOI + comment + plain[2:]
    assert stops == [scan.ecs_stop for scan in parse(output).scans]


def test_no_identity_is_made_up():
    output, _, _ = transcode(make("cmyk"))
    assert b"Adobe" not in output
    output, _, _ = transcode(make("420"))
    assert b"JFIF" not in output


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_the_coefficients_coded_as_the_source_are_its_entropy_coded_bytes(progressive):
    data = make("420", progressive=progressive)
    skeleton, segments = split_ecs(data, parse(data))
    output, _, (made, recoded) = transcode(data, how=coding_of(data))
    assert tuple(recoded) == segments
    # The same headers; the writer's caller puts JFIF in, and table numbers are the writer's own.
    if progressive:
        assert SOI + skeleton[20:] == made
    assert join_ecs(made, recoded).endswith(segments[-1] + EOI)
    assert tuple(native.reencode(output, coding_of(data), *LIMITS)) == segments


def test_the_comparison_of_these_tests_sees_a_difference():
    assert coefficients(make("420")) == coefficients(make("420", progressive=True))
    assert coefficients(make("420")) != coefficients(make("420", quality=87))


@needs_jpegtran
@pytest.mark.parametrize("script", BUILTIN.values(), ids=BUILTIN)
def test_every_script_keeps_the_coefficients(script):
    data = make("420")
    output, _, _ = transcode(data, scans=scans_of(data, script))
    assert jpegtran(output, "-optimize") == jpegtran(data, "-optimize")


def test_a_result_that_lost_something_is_refused():
    data = make("420")
    for parameters in ((0, 0, 0, 0), (0, 0, 0, 1)):  # no AC; and DC without its last bit
        with pytest.raises(DamagedJpegError, match="would lose data: coefficient"):
            transcode(data, scans=pack_scan((0, 1, 2), parameters))


def test_limits_hold_on_either_side():
    data = make("444", 75, 101)  # 3 components of 10 x 13 blocks of 128 bytes, held twice
    memory = 3 * 10 * 13 * 128 * 2
    scans = scans_of(data)
    assert transcode(data, limits=(75 * 101, 1, memory))
    with pytest.raises(LimitError, match="7575 pixels, the limit is 7574"):
        transcode(data, limits=(75 * 101 - 1, 1, memory))
    with pytest.raises(LimitError, match=f"need {memory} bytes of memory, the limit is"):
        transcode(data, limits=(75 * 101, 1, memory - 1))
    progressive, _, _ = transcode(data)
    n = len(scans) // 9
    assert transcode(progressive, limits=(75 * 101, n, memory))
    with pytest.raises(LimitError, match=f"more than {n - 1} scans"):
        transcode(progressive, limits=(75 * 101, n - 1, memory))


def test_a_small_file_of_a_huge_image_fails_at_once():
    data = bytearray(make("420", progressive=True))
    sof = data.index(b"\xff\xc2")
    data[sof + 5 : sof + 9] = b"\x20\x00\x20\x00"  # 8192 x 8192
    start = time.perf_counter()
    with pytest.raises(DamagedJpegError):
        transcode(bytes(data), scans=scans_of(make("420")))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("scans", "words"),
    [
        pytest.param(b"", "packed scans must be", id="none"),
        pytest.param(bytes(10), "packed scans must be", id="ten-bytes"),
        pytest.param(pack_scan((0,), (0, 0, 0, 0)), "all data", id="components-missing"),
        pytest.param(pack_scan((7,), (0, 0, 0, 0)), "[Ii]nvalid scan script", id="no-such-one"),
        pytest.param(bytes([9, 0, 0, 0, 0, 0, 0, 0, 0]), "Too many color components", id="nine"),
        pytest.param(pack_scan((0, 1, 2), (0, 99, 0, 0)), "[Ii]nvalid prog", id="se-99"),
    ],
)
def test_a_script_that_libjpeg_refuses_is_the_callers_mistake(scans, words):
    with pytest.raises(ValueError, match=words) as caught:
        transcode(make("420"), scans=scans)
    assert not isinstance(caught.value, JpegError)


BAD_CODINGS = {
    "tables-of-one-component": lambda scans, tables, slots: (scans, tables[:544], slots, 0),
    "empty-tables": lambda scans, tables, slots: (scans, bytes(len(tables)), slots, 0),
    "overfull-tables": lambda scans, tables, slots: (scans, b"\xff" * len(tables), slots, 0),
    "unknown-component": lambda _, tables, slots: (
        pack_scan((0, 1, 9), (0, 63, 0, 0)),
        tables,
        slots,
        0,
    ),
    "interval-too-long": lambda scans, tables, slots: (scans, tables, slots, 1 << 30),
    "slot-out-of-range": lambda _, __, slots: (
        scans_of(make("420")),
        None,
        b"\xff" * len(slots),
        0,
    ),
    "slot-missing": lambda _, __, slots: (scans_of(make("420")), None, slots[:2], 0),
}


@pytest.mark.parametrize("spoil", BAD_CODINGS.values(), ids=BAD_CODINGS.keys())
def test_a_coding_that_does_not_work_costs_the_recoding_alone(spoil):
    data = make("420")
    how = spoil(*coding_of(data)[:3])
    output, _, recoded = transcode(data, how=how)
    assert coefficients(data) == coefficients(output)
    if recoded is not None:
        assert tuple(recoded[1]) != split_ecs(data, parse(data))[1] or how[3]
    try:
        assert native.reencode(output, how, *LIMITS) == recoded[1]
    except ValueError:
        assert recoded is None


@pytest.mark.parametrize("how", [(), (b"", b"", b"", 0), (b"123456789", "text", b"", 0), 7])
def test_a_malformed_coding_is_refused(how):
    with pytest.raises((TypeError, ValueError)):
        transcode(make("grey"), how=how)


REFUSED = {
    "empty": (b"", UnsupportedJpegError, "Empty input file"),
    "png": (b"\x89PNG\r\n\x1a\n" * 9, UnsupportedJpegError, "Not a JPEG file"),
    "no-image": (SOI + EOI, DamagedJpegError, "no image"),
    "lossless": (make("grey").replace(b"\xff\xc0", b"\xff\xc3"), UnsupportedJpegError, "SOF type"),
    "arithmetic": (
        make("grey").replace(b"\xff\xc0", b"\xff\xc9"),
        UnsupportedJpegError,
        "arithmetic coding",
    ),
    "12-bit": (
        make("grey").replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc1\x00\x0b\x0c"),
        UnsupportedJpegError,
        "data precision",
    ),
    "height-0": (
        make("grey").replace(b"\xff\xc0\x00\x0b\x08\x00\x4b", b"\xff\xc0\x00\x0b\x08\x00\x00"),
        UnsupportedJpegError,
        "[Ee]mpty JPEG image",
    ),
    "no-eoi": (make("420")[:-2], DamagedJpegError, "Premature end of JPEG file"),
    "half": (make("420")[: len(make("420")) // 2], DamagedJpegError, "Premature end"),
    "byte-before-marker": (
        make("grey").replace(b"\xff\xda", b"\x00\xff\xda"),
        DamagedJpegError,
        "extraneous bytes",
    ),
    "no-tables": (
        make("grey").replace(b"\xff\xdb", b"\xff\xfe"),
        DamagedJpegError,
        "Quantization table 0x00 was not defined",
    ),
}


@pytest.mark.parametrize(("data", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_libjpeg_complains_about_is_an_error_in_its_words(data, error, words):
    scans = scans_of(make("grey"))
    with pytest.raises(error, match=words):
        transcode(data, scans=scans)
    with pytest.raises(error, match=words):
        native.reencode(data, coding_of(make("grey")), *LIMITS)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_every_truncation_is_an_error(progressive):
    data = make("420", 21, 19, progressive=progressive)
    scans, how = scans_of(data), coding_of(data)
    for stop in range(len(data)):
        with pytest.raises(JpegError):
            transcode(data[:stop], scans=scans, how=how)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_truncation_with_an_eoi_is_an_error_but_between_progressive_scans(progressive):
    data = make("420", 21, 19, progressive=progressive)
    scans, how = scans_of(data), coding_of(data)
    parsed = parse(data)
    # There it is a whole file, of fewer scans; tables or a fill byte may follow the last one.
    starts = [s.start for s in parsed.segments if s.start >= parsed.scans[0].ecs_stop]
    legal = {at + fill for at in (*starts, parsed.eoi) for fill in (0, 1)}
    for stop in range(len(data)):
        if stop in legal:
            output, _, _ = transcode(data[:stop] + EOI, scans=scans, how=how)
            assert coefficients(data[:stop] + EOI) == coefficients(output)
            continue
        with pytest.raises(JpegError):
            transcode(data[:stop] + EOI, scans=scans, how=how)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_random_damage_gives_a_proven_result_or_an_error(progressive):
    data = make("420", 40, 35, progressive=progressive)
    scans, how = scans_of(data), coding_of(data)
    rng = random.Random(7)  # noqa: S311 - damage, not secrets
    kept = 0
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(2, len(data))] = rng.randrange(256)
        try:
            output, _, _ = transcode(
                bytes(damaged), scans=scans, how=how, limits=(1 << 22, 50, 1 << 26)
            )
        except (JpegError, ValueError):
            continue
        kept += 1
        assert coefficients(bytes(damaged)) == coefficients(output)
    assert 0 < kept < 2000


def test_memory_does_not_grow():
    data = make("444", 300, 400, quality=100)
    scans, how = scans_of(data), coding_of(data)
    calls = [data, data[: len(data) // 2], data[:-2], data[:100], b""]
    peaks = []
    for _ in range(3):
        for i in range(150):
            with contextlib.suppress(JpegError):
                transcode(calls[i % len(calls)], scans=scans, how=how)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[2] - peaks[0] < 4096  # KiB; one leaked image would be 60,000 in a round


def test_other_threads_run_meanwhile():
    data = make("420", 1200, 1200, quality=95)
    scans, how = scans_of(data), coding_of(data)
    thread = threading.Thread(target=lambda: transcode(data, scans=scans, how=how))
    thread.start()
    naps = 0
    while thread.is_alive():
        time.sleep(0.001)
        naps += 1
    assert naps > 10  # a call of 100 ms that held the GIL would leave one or two


def test_calls_in_several_threads_do_not_meet():
    files = [make(kind) for kind in ("grey", "444", "420", "cmyk")]
    expected = [transcode(data, how=coding_of(data)) for data in files]
    failures = []

    def work():
        for _ in range(20):
            for data, result in zip(files, expected, strict=True):
                if transcode(data, how=coding_of(data)) != result:
                    failures.append(data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
