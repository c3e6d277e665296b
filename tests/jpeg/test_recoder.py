"""Source files come back by the rules of the page, without pcrstore and without libjpeg."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import recoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpeg_files import (
    KINDS,
    has_transcoder,
    jpegtran,
    make,
    needs_jpegtran,
    sample_files,
    sampled,
)
from many_groups import THIRTY_TWO
from PIL import Image
from recodable import FILES, ONE_GROUP, WITH_SCANS, eob_table, flat
from small_sources import sources

from pcrstore.errors import JpegError
from pcrstore.jpeg.markers import EOI
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.restore import Kind, split_ecs
from pcrstore.jpeg.scan_script import BUILTIN, DEFAULT, parse_script
from pcrstore.jpeg.transcoder import transcode

pytestmark = pytest.mark.skipif(
    not has_transcoder(), reason="the C transcoder is not built (setup.py)"
)

SCRIPTS = {**BUILTIN, "one": ONE_GROUP, "32": parse_script(THIRTY_TWO)}


def comes_back(data, script=DEFAULT):
    """The segments of a file that need not be stored are those that the recoder makes."""
    done = transcode(data, script)
    assert done.kind == Kind.RECODED
    skeleton, segments = split_ecs(data, parse(data))
    assert recoder.recode(skeleton, b"".join(done.groups) + EOI) == list(segments)


def test_the_recoder_imports_the_standard_library_and_numpy_alone():
    text = Path(recoder.__file__).read_text()
    found = set(re.findall(r"^\s*(?:import|from)\s+(\w+)", text, re.MULTILINE))
    assert found == {"re", "collections", "dataclasses", "itertools", "numpy"}


RECODED = {name: make for name, (make, kind) in FILES.items() if kind == Kind.RECODED}


@pytest.mark.parametrize("source", RECODED.values(), ids=RECODED)
def test_a_file_comes_back_by_the_rules(source):
    comes_back(source())


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_script(kind, script):
    comes_back(make(kind, 41, 27), script)


SMALL = {
    key: data
    for key, data in sources().items()
    if data.startswith(b"\xff\xd8") and "odd" not in key
}


@pytest.mark.parametrize("data", SMALL.values(), ids=SMALL)
def test_small_sources_come_back(data):
    comes_back(data)


BY_JPEGTRAN = {
    "optimised": ["-optimize"],
    "progressive": ["-progressive"],
    "restart-1": ["-restart", "1B"],
    "restart-9": ["-restart", "9B"],
    "restart-rows": ["-restart", "1"],
    "restart-optimised": ["-restart", "3B", "-optimize"],
    "restart-progressive": ["-restart", "5B", "-progressive"],
    "restart-1-progressive": ["-restart", "1B", "-progressive"],
}


@needs_jpegtran
@pytest.mark.parametrize("arguments", BY_JPEGTRAN.values(), ids=BY_JPEGTRAN)
@pytest.mark.parametrize("kind", ["grey", "444", "420", "411", "cmyk"])
def test_what_jpegtran_writes_comes_back(kind, arguments):
    comes_back(jpegtran(make(kind), *arguments))


@needs_jpegtran
@pytest.mark.parametrize(("of", "scans", "arguments", "_"), WITH_SCANS.values(), ids=WITH_SCANS)
def test_scans_of_their_own_come_back(of, scans, arguments, _, tmp_path):
    (tmp_path / "scans").write_text(scans)
    comes_back(jpegtran(make(of), "-scans", str(tmp_path / "scans"), *arguments))


@needs_jpegtran
@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("sampling", [(3, 1), (1, 4), (3, 2), (4, 2), (2, 4)], ids=str)
def test_samplings_that_are_rare_come_back(sampling, progressive):
    comes_back(sampled(*sampling, progressive=progressive))


def test_tables_in_force_at_several_scans_come_back():
    first, rest = flat().split(eob_table(0x10), 1)
    comes_back(first + eob_table(0x10) + rest.replace(eob_table(0x10), b""))


@needs_jpegtran
def test_a_restart_interval_that_changes_between_scans_is_obeyed(tmp_path):
    """libjpeg cannot write one, so such segments are stored; by the rule they come back."""
    (tmp_path / "scans").write_text("0; 1; 2;")
    data = jpegtran(make("420"), "-scans", str(tmp_path / "scans"), "-restart", "1")
    skeleton, segments = split_ecs(data, parse(data))
    assert len({data[s.start : s.stop] for s in parse(data).segments if s.marker == 0xDD}) > 1
    done = transcode(data, DEFAULT)
    assert done.kind == Kind.STORED
    assert recoder.recode(skeleton, b"".join(done.groups) + EOI) == list(segments)


def alike(block, rows, columns):
    """Grey samples of blocks that are the same."""
    return np.tile(block.clip(0, 255).astype(np.uint8), (rows, columns))


COSINE = np.tile(128 + 100 * np.cos((2 * np.arange(8) + 1) * np.pi / 16), (8, 1))
"""A block of DC and one AC coefficient, which is far from 0."""
NOISE = np.random.Generator(np.random.PCG64(1)).integers(28, 228, (8, 8))
"""A block of many coefficients."""


def saved(samples, **options):
    out = io.BytesIO()
    Image.fromarray(samples).save(out, "JPEG", **options)
    return out.getvalue()


LONG = {
    # 40,000 blocks of which no scan has anything to say: a run ends at 32,767 of them.
    "run-of-32767": lambda: saved(alike(np.full((8, 8), 90), 200, 200), progressive=True),
    # A refinement of each block is a correction bit, and no coefficient is new: 938 fill a run.
    "938-bits": lambda: saved(alike(COSINE, 8, 200), progressive=True),
    "many-bits-a-block": lambda: saved(alike(NOISE, 8, 80), progressive=True, quality=100),
}


@pytest.mark.parametrize("source", LONG.values(), ids=LONG)
def test_a_run_of_blocks_ends_where_libjpeg_ends_it(source):
    comes_back(source())


BOUNDS = {
    "MOST_BLOCKS_IN_RUN": "run-of-32767",
    "MOST_WAITING_BITS": "938-bits",
}


@pytest.mark.parametrize(("name", "source"), BOUNDS.items(), ids=BOUNDS)
@pytest.mark.parametrize("more", [-1, 1])
def test_another_bound_of_runs_gives_other_bytes(monkeypatch, name, source, more):
    monkeypatch.setattr(recoder, name, getattr(recoder, name) + more)
    data = LONG[source]()
    with pytest.raises((AssertionError, ValueError)):
        comes_back(data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
    st.sampled_from([5, 60, 88, 100]),
    st.sampled_from(sorted(SCRIPTS)),
)
def test_any_size_comes_back(kind, size, progressive, quality, script):
    comes_back(make(kind, *size, progressive=progressive, quality=quality), SCRIPTS[script])


def test_odd_files_come_back():
    n = 0
    for path in sample_files("odd-jpegs", "*"):
        try:
            kind = transcode(path.read_bytes(), DEFAULT).kind
        except JpegError:
            continue
        if kind == Kind.RECODED:
            comes_back(path.read_bytes())
            n += 1
    assert n == 13


@pytest.mark.parametrize("script", ["sa5", "standard-10"])
def test_photos_come_back(script):
    for path in sample_files("imagenet-sample", "*.[jJ]*")[::50]:
        comes_back(path.read_bytes(), BUILTIN[script])


def test_a_symbol_without_a_code_is_refused():
    skeleton, _ = split_ecs(flat(), parse(flat()))
    skeleton = skeleton.replace(eob_table(0x10), eob_table(0x00))
    with pytest.raises(ValueError, match="no code for symbol 0x10"):
        recoder.recode(skeleton, b"".join(transcode(flat(), DEFAULT).groups) + EOI)


def test_a_sequential_file_has_no_groups():
    with pytest.raises(ValueError, match="progressive file expected, got SOF 0xc0"):
        recoder.recode(make("grey"), make("grey"))
