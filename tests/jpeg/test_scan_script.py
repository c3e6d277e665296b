"""Scan scripts: every rule from both sides, and jpegtran as a second opinion."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpeg_files import KINDS, jpegtran, make, needs_jpegtran, with_scans

from pcrstore.errors import ScriptError
from pcrstore.jpeg.markers import ColourModel, Component, Frame
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.scan_script import BUILTIN, DEFAULT, ScanSpec, builtin, parse_script

FLAT_MODELS = [m for m in ColourModel if not m.has_chroma]


def frame_of(*sampling):
    """A frame of components of (h, v)."""
    return Frame(
        sof=0xC0,
        height=64,
        width=64,
        components=tuple(
            Component(id=i + 1, h=h, v=v, quant_table=0) for i, (h, v) in enumerate(sampling)
        ),
    )


GREY = frame_of((1, 1))
YCBCR = frame_of((2, 2), (1, 1), (1, 1))
FOUR = frame_of((1, 1), (1, 1), (1, 1), (1, 1))

DC = "[a]\n*: 0-0, 0, 0\n"

# One row for each rule: id, a script that breaks it, what the message says, the nearest legal one.
RULES = {
    "no-group": ("", "1 to 32 groups expected, got 0", "[a]\n*: 0-0, 0, 0\n*: 1-63, 0, 0"),
    "33-groups": (
        DC + "".join(f"[g{i}]\n*: {i}-{i}, 0, 0\n" for i in range(1, 33)) + "*: 33-63, 0, 0",
        "1 to 32 groups expected, got 33",
        DC + "".join(f"[g{i}]\n*: {i}-{i}, 0, 0\n" for i in range(1, 32)) + "*: 32-63, 0, 0",
    ),
    "scan-before-group": (
        "*: 0-0, 0, 0",
        "line 1: a group, like [dc], expected",
        DC + "*: 1-63, 0, 0",
    ),
    "label-upper-case": ("[DC]", "line 1: a label of a-z, 0-9 and - ", DC + "*: 1-63, 0, 0"),
    "label-empty": ("[]", "line 1: a label", DC + "*: 1-63, 0, 0"),
    "label-33-characters": (
        f"[{'a' * 33}]",
        "line 1: a label",
        f"[{'a' * 32}]\n*: 0-0,0,0\n*:1-63,0,0",
    ),
    "label-not-unique": (
        DC + "[a]\n*: 1-63, 0, 0",
        "line 3: labels must be unique, got another [a]",
        DC + "[b]\n*: 1-63, 0, 0",
    ),
    "no-scan": (
        DC + "hello",
        "line 3: a scan like 'Y: 1-9, 0, 2' expected, got 'hello'",
        DC + "*: 1-63, 0, 0",
    ),
    "unknown-component": (DC + "Z: 1-63, 0, 0", "line 3: a scan like", DC + "*: 1-63, 0, 0"),
    "misspelt-component": (DC + "cb: 1-63, 0, 0", "line 3: a scan like", DC + "*: 1-63, 0, 0"),
    "negative": (DC + "*: 1-63, 0, -1", "line 3: a scan like", DC + "*: 1-63, 0, 0"),
    "unknown-condition": (
        DC + "*: 1-63, 0, 0 if grey",
        "line 3: a scan like",
        DC + "*: 1-63, 0, 0",
    ),
    "dc-with-ac": (
        "[a]\n*: 0-63, 0, 0",
        "line 2: DC and AC are sent apart (T.81 G.1.1.1.1)",
        DC + "*: 1-63, 0, 0",
    ),
    "se-64": (
        DC + "*: 1-64, 0, 0",
        "line 3: Ss <= Se <= 63 expected (T.81 B.2.3), got 1-64",
        DC + "*: 1-63, 0, 0",
    ),
    "se-before-ss": (DC + "*: 2-1, 0, 0", "got 2-1", DC + "*: 1-1, 0, 0\n*: 2-63, 0, 0"),
    "al-11": (
        DC + "*: 1-63, 0, 11",
        "line 3: Al of 0 to 10 expected (libjpeg's limit), got 11",
        DC + "*: 1-63, 0, 10\n" + "".join(f"*: 1-63, {a}, {a - 1}\n" for a in range(10, 0, -1)),
    ),
    "ah-skips-a-bit": (
        DC + "*: 1-63, 0, 2\n*: 1-63, 2, 0",
        "line 4: Ah of 0 in a first scan or Al + 1 = 1 in a refinement expected",
        DC + "*: 1-63, 0, 2\n*: 1-63, 2, 1\n*: 1-63, 1, 0",
    ),
    "ah-equals-al": (DC + "*: 1-63, 1, 1", "Al + 1 = 2", DC + "*: 1-63, 0, 1\n*: 1-63, 1, 0"),
    "refines-another-bit": (
        DC + "*: 1-63, 0, 2\n*: 1-63, 1, 0",
        "coefficient 1 was sent to Al 2, so Ah of 2 expected (T.81 G.1.1.1.2), got 1",
        DC + "*: 1-63, 0, 1\n*: 1-63, 1, 0",
    ),
    "refines-unsent": (
        DC + "*: 1-62, 0, 1\n*: 1-63, 1, 0",
        "line 4, Y of an image with chroma: coefficient 63 needs a first scan, with Ah 0, got 1",
        DC + "*: 1-62, 0, 1\n*: 63-63, 0, 1\n*: 1-63, 1, 0",
    ),
    "sent-twice": (
        DC + "*: 1-10, 0, 0\n*: 10-63, 0, 0",
        "line 4, Y of an image with chroma: coefficient 10 was sent before",
        DC + "*: 1-10, 0, 0\n*: 11-63, 0, 0",
    ),
    "ac-before-dc": (
        "[a]\n*: 1-63, 0, 0\n*: 0-0, 0, 0",
        "line 2, Y of an image with chroma: DC expected before AC (T.81 G.1.1.1.1)",
        DC + "*: 1-63, 0, 0",
    ),
    "chroma-ac-before-its-dc": (
        "[a]\nY: 0-0, 0, 0\n*: 1-63, 0, 0\nC: 0-0, 0, 0",
        "line 3, Cb of an image with chroma: DC expected before AC",
        "[a]\nY: 0-0, 0, 0\nY: 1-63, 0, 0\nC: 0-0, 0, 0\nC: 1-63, 0, 0",
    ),
    "never-sent": (
        DC + "*: 1-62, 0, 0",
        "coefficient 63 of Y of an image with chroma must reach Al 0, it is never sent",
        DC + "*: 1-63, 0, 0",
    ),
    "chroma-never-sent": (
        DC + "Y: 1-63, 0, 0",
        "coefficient 1 of Cb of an image with chroma must reach Al 0, it is never sent",
        DC + "Y: 1-63, 0, 0\nC: 1-63, 0, 0",
    ),
    "cr-never-sent": (
        DC + "Y: 1-63, 0, 0\nCb: 1-63, 0, 0",
        "coefficient 1 of Cr of an image with chroma must reach Al 0, it is never sent",
        DC + "Y: 1-63, 0, 0\nCb: 1-63, 0, 0\nCr: 1-63, 0, 0",
    ),
    "cb-sent-twice": (
        DC + "*: 1-63, 0, 0\nCb: 1-63, 0, 0",
        "line 4, Cb of an image with chroma: coefficient 1 was sent before",
        DC + "Y: 1-63, 0, 0\nCr: 1-63, 0, 0\nCb: 1-63, 0, 0",
    ),
    "flat-never-sent": (
        DC + "*: 1-63, 0, 0 if chroma",
        "coefficient 1 of Y of an image without chroma must reach Al 0, it is never sent",
        DC + "*: 1-63, 0, 0 if chroma\n*: 1-63, 0, 0 unless chroma",
    ),
    "flat-sent-twice": (
        DC + "*: 1-63, 0, 0\nY: 1-63, 0, 0 unless chroma",
        "line 4, Y of an image without chroma: coefficient 1 was sent before",
        DC + "*: 1-63, 0, 0 if chroma\nY: 1-63, 0, 0 unless chroma",
    ),
    "stops-at-1": (
        DC + "*: 1-63, 0, 1",
        "coefficient 1 of Y of an image with chroma must reach Al 0, it stops at 1",
        DC + "*: 1-63, 0, 1\n*: 1-63, 1, 0",
    ),
    "dc-stops-at-1": (
        "[a]\n*: 0-0, 0, 1\n*: 1-63, 0, 0",
        "coefficient 0 of Y of an image with chroma must reach Al 0, it stops at 1",
        "[a]\n*: 0-0, 0, 1\n*: 1-63, 0, 0\n*: 0-0, 1, 0",
    ),
    "empty-group": (DC + "*: 1-63, 0, 0\n[b]", "group [b] is empty", DC + "[b]\n*: 1-63, 0, 0"),
    "group-empty-without-chroma": (
        DC + "Y: 1-63, 0, 0\n[b]\nC: 1-63, 0, 0",
        "group [b] is empty for an image without chroma",
        DC + "Y: 1-62, 0, 0\n[b]\nY: 63-63, 0, 0\nC: 1-63, 0, 0",
    ),
    "group-empty-with-chroma": (
        DC + "*: 1-63, 0, 0 if chroma\n[b]\n*: 1-63, 0, 0 unless chroma",
        "group [b] is empty for an image with chroma",
        DC + "*: 1-62, 0, 0 if chroma\n[b]\n*: 1-63, 0, 0 unless chroma\n*: 63-63, 0, 0 if chroma",
    ),
    # Four DC scans, where more than ten blocks would make a unit, and four for each line of AC.
    "164-scans": (
        DC + "".join(f"*: {k}-{k}, 0, 0\n" for k in range(1, 40)) + "*: 40-63, 0, 0",
        "at most 160 scans for four components, got 164",
        DC + "".join(f"*: {k}-{k}, 0, 0\n" for k in range(1, 39)) + "*: 39-63, 0, 0",
    ),
    "too-long": (
        DC + "*: 1-63, 0, 0\n" + "#" * 65_536,
        "at most 65536 characters, got 65567",
        DC + "*: 1-63, 0, 0\n" + "#" * (65_536 - 31),
    ),
}


@pytest.mark.parametrize(("text", "message"), [r[:2] for r in RULES.values()], ids=RULES)
def test_a_broken_rule_is_named(text, message):
    with pytest.raises(ScriptError, match=re.escape(message)) as caught:
        parse_script(text, name="mine")
    assert str(caught.value).startswith("script mine")


@pytest.mark.parametrize("text", [row[2] for row in RULES.values()], ids=RULES)
def test_the_nearest_legal_script_is_read(text):
    script = parse_script(text)
    assert parse_script(script.text) == script


def test_comments_blank_lines_and_spacing_do_not_matter():
    loose = "# head\n\n  [a]  # label\n\t*:0-0,0,1# dc\r\n* : 1 - 63 , 0 , 0   if   chroma\n"
    loose += "Y:1-63,0,0 unless chroma\n[b]\n*:0-0,1,0"
    script = parse_script(loose)
    assert script.text == (
        "[a]\n*: 0-0, 0, 1\n*: 1-63, 0, 0 if chroma\nY: 1-63, 0, 0 unless chroma\n"
        "[b]\n*: 0-0, 1, 0\n"
    )
    assert (script.name, script.labels, script.n_groups) == ("custom", ("a", "b"), 2)


def test_line_numbers_count_comments_and_blank_lines():
    with pytest.raises(ScriptError, match="line 4"):
        parse_script("# one\n\n[a]\nwhat\n")


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_script_is_found_by_name_and_survives_its_text(name):
    script = builtin(name)
    assert script.name == name
    assert parse_script(script.text, name=name) == script


def test_there_are_five_built_in_scripts_and_sa5_is_the_default():
    assert list(BUILTIN) == ["sa5", "spec5", "al3", "standard", "standard-10"]
    assert DEFAULT is builtin("sa5")
    assert [s.n_groups for s in BUILTIN.values()] == [5, 5, 5, 6, 10]
    with pytest.raises(ScriptError, match="standard, standard-10, got 'sa6'"):
        builtin("sa6")


def test_the_standard_script_is_libjpegs():
    data = make("420", progressive=True)
    jpeg = parse(data)
    specs = builtin("standard").expand(jpeg.frame, jpeg.model)
    theirs = [(s.components, s.ss, s.se, s.ah, s.al) for s in jpeg.scans]
    ours = [(s.components, s.ss, s.se, s.ah, s.al) for s in specs]
    assert sorted(ours) == sorted(theirs)
    assert ours[:2] == theirs[:2]
    assert [s.group for s in specs] == [0, 1, 2, 2, 3, 4, 5, 5, 5, 5]


@pytest.mark.parametrize("kind", ["444", "422", "420", "440", "411"])
def test_standard_10_is_libjpegs_progression_scan_by_scan(kind):
    jpeg = parse(make(kind, progressive=True))
    specs = builtin("standard-10").expand(jpeg.frame, jpeg.model)
    theirs = [(s.components, s.ss, s.se, s.ah, s.al) for s in jpeg.scans]
    assert [(s.components, s.ss, s.se, s.ah, s.al) for s in specs] == theirs
    assert [s.group for s in specs] == list(range(10))


CB_AND_CR = """
[a]
*: 0-0, 0, 0
Y: 1-31, 0, 0
[cr]
Cr: 1-63, 0, 0
Y: 32-62, 0, 0 unless chroma
[cb]
Cb: 1-63, 0, 0
Y: 63-63, 0, 0 unless chroma
Y: 32-63, 0, 0 if chroma
"""
AC_SCANS = {
    "grey": (GREY, ColourModel.GREY, [((0,), 0), ((0,), 1), ((0,), 2)]),
    "ycbcr": (YCBCR, ColourModel.YCBCR, [((0,), 0), ((2,), 1), ((1,), 2), ((0,), 2)]),
    "rgb": (YCBCR, ColourModel.RGB, [((i,), g) for g in range(3) for i in range(3)]),
    "cmyk": (FOUR, ColourModel.CMYK, [((i,), g) for g in range(3) for i in range(4)]),
    "ycck": (
        FOUR,
        ColourModel.YCCK,
        [((0,), 0), ((3,), 0), ((2,), 1), ((1,), 2), ((0,), 2), ((3,), 2)],
    ),
}


@pytest.mark.parametrize(("frame", "model", "scans"), AC_SCANS.values(), ids=AC_SCANS)
def test_a_line_of_cb_or_cr_is_for_that_component_alone(frame, model, scans):
    specs = parse_script(CB_AND_CR).expand(frame, model)
    assert [(s.components, s.group) for s in specs if s.ss] == scans


def scan(components, ss, se, ah, al, group):
    return ScanSpec(components=components, ss=ss, se=se, ah=ah, al=al, group=group)


def test_sa5_of_a_colour_image_written_out():
    expected = [scan((0, 1, 2), 0, 0, 0, 1, 0)]
    for group, (ss, se, ah, al) in enumerate(
        [(1, 9, 0, 2), (10, 63, 0, 2), (1, 63, 2, 1)], start=1
    ):
        expected += [scan((i,), ss, se, ah, al, group) for i in range(3)]
    expected += [scan((i,), 1, 63, 1, 0, 4) for i in range(3)] + [scan((0, 1, 2), 0, 0, 1, 0, 4)]
    assert builtin("sa5").expand(YCBCR, ColourModel.YCBCR) == tuple(expected)


STANDARD_GROUP_3 = {
    "grey": (GREY, ColourModel.GREY, [scan((0,), 6, 14, 0, 2, 2)]),
    "ycbcr": (YCBCR, ColourModel.YCBCR, [scan((i,), 1, 63, 0, 1, 2) for i in (1, 2)]),
    "rgb": (YCBCR, ColourModel.RGB, [scan((i,), 6, 14, 0, 2, 2) for i in range(3)]),
    "cmyk": (FOUR, ColourModel.CMYK, [scan((i,), 6, 14, 0, 2, 2) for i in range(4)]),
    "ycck": (FOUR, ColourModel.YCCK, [scan((i,), 1, 63, 0, 1, 2) for i in (1, 2)]),
    "two": (
        frame_of((1, 1), (1, 1)),
        ColourModel.OTHER,
        [scan((i,), 6, 14, 0, 2, 2) for i in (0, 1)],
    ),
}


@pytest.mark.parametrize(
    ("frame", "model", "specs"), STANDARD_GROUP_3.values(), ids=STANDARD_GROUP_3
)
def test_y_and_c_mean_what_the_model_says(frame, model, specs):
    assert [s for s in builtin("standard").expand(frame, model) if s.group == 2] == specs


INTERLEAVED = {
    "one-component-of-16": ([(4, 4)], [(0,)]),
    "10-blocks": ([(2, 2), (2, 2), (2, 1)], [(0, 1, 2)]),
    "11-blocks": ([(2, 2), (2, 2), (3, 1)], [(0, 1), (2,)]),
    "16-blocks-then-1": ([(4, 4), (1, 1), (1, 1)], [(0,), (1, 2)]),
    "411": ([(4, 1), (1, 1), (1, 1)], [(0, 1, 2)]),
    "four-of-4": ([(2, 2)] * 4, [(0, 1), (2, 3)]),
    "four-of-9": ([(3, 3)] * 4, [(0,), (1,), (2,), (3,)]),
}


@pytest.mark.parametrize(("sampling", "scans"), INTERLEAVED.values(), ids=INTERLEAVED)
def test_dc_scans_are_split_over_ten_blocks(sampling, scans):
    specs = builtin("spec5").expand(frame_of(*sampling), ColourModel.RGB)
    assert [s.components for s in specs if s.group == 0] == scans


@needs_jpegtran
@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("kind", KINDS)
def test_jpegtran_writes_a_built_in_script_and_loses_nothing(kind, name, tmp_path):
    source = make(kind)
    jpeg = parse(source)
    specs = builtin(name).expand(jpeg.frame, jpeg.model)
    written = with_scans(source, specs, tmp_path)
    assert [(s.components, s.ss, s.se, s.ah, s.al) for s in parse(written).scans] == [
        (s.components, s.ss, s.se, s.ah, s.al) for s in specs
    ]
    optimal = ["-copy", "none", "-optimize"]
    assert jpegtran(written, *optimal) == jpegtran(source, *optimal)


@st.composite
def legal_scripts(draw):
    """A legal script: bands of Y and C at some Al, refined in turn, cut into groups at random."""
    bounds = sorted(draw(st.sets(st.integers(2, 63), max_size=3)))
    bands = list(zip([1, *bounds], [*(b - 1 for b in bounds), 63], strict=True))
    queues = []  # for each kind its lines, each of which needs the one before it
    kinds = draw(st.sampled_from([("Y", "C"), ("Y", "Cb", "Cr")]))
    for kind in kinds:
        dc, ac = draw(st.integers(0, 2)), draw(st.integers(0, 3))
        lines = [f"{kind}: 0-0, 0, {dc}"]
        lines += [f"{kind}: {ss}-{se}, 0, {ac}" for ss, se in bands]
        lines += [f"{kind}: 1-63, {a}, {a - 1}" for a in range(ac, 0, -1)]
        lines += [f"{kind}: 0-0, {a}, {a - 1}" for a in range(dc, 0, -1)]
        queues.append(lines)
    order = draw(st.permutations([i for i, queue in enumerate(queues) for _ in queue]))
    merged = [queues[kind].pop(0) for kind in order]
    text, group, has_y = "[g0]\n", 0, False
    for line in merged:
        # A group may end once it holds a line of Y, and the rest holds another.
        rest_has_y = any(other.startswith("Y") for other in merged[merged.index(line) :])
        if has_y and group < 31 and rest_has_y and draw(st.booleans()):
            group, has_y = group + 1, False
            text += f"[g{group}]\n"
        text += line + "\n"
        has_y = has_y or line.startswith("Y")
    return text


@given(legal_scripts())
def test_a_legal_script_is_read_and_survives_its_text(text):
    script = parse_script(text)
    assert parse_script(script.text) == script
    for model in ColourModel:
        frame = {ColourModel.GREY: GREY, ColourModel.CMYK: FOUR, ColourModel.YCCK: FOUR}.get(
            model, YCBCR
        )
        specs = script.expand(frame, model)
        groups = [s.group for s in specs]
        assert groups == sorted(groups)
        assert set(groups) == set(range(script.n_groups))


@needs_jpegtran
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(legal_scripts(), st.sampled_from(["420", "grey", "ycck"]))
def test_jpegtran_accepts_a_legal_script(text, kind):
    source = make(kind, 16, 24)
    jpeg = parse(source)
    specs = parse_script(text).expand(jpeg.frame, jpeg.model)
    with TemporaryDirectory() as folder:
        written = with_scans(source, specs, Path(folder))
    assert jpegtran(written, "-optimize") == jpegtran(source, "-optimize")


@given(
    st.text(st.sampled_from("[]abr-YC*:0169, #\nifunlesschroma"), max_size=80)
    | st.text(max_size=40)
)
def test_any_text_is_a_script_or_a_script_error(text):
    try:
        script = parse_script(text)
    except ScriptError:
        return
    assert parse_script(script.text) == script


@given(legal_scripts(), st.data())
def test_a_script_without_one_of_its_lines_is_illegal(text, data):
    lines = text.splitlines()
    at = data.draw(st.sampled_from([i for i, line in enumerate(lines) if not line.startswith("[")]))
    with pytest.raises(ScriptError):
        parse_script("\n".join(lines[:at] + lines[at + 1 :]))
