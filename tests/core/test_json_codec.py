"""Hostile JSON is held to the types and bounds of dataclasses, and an error names its place."""

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.json_codec import (
    MAX_INT,
    Count,
    Hex,
    Key,
    ObjectName,
    encode_json,
    from_json,
    longest,
    one_of,
    parse_object,
    to_json,
    within,
)
from pcrstore.errors import FormatError

BAD_JSON = {
    "empty": b"",
    "not-utf8": b'{"a":"\xff"}',
    "utf16": '{"a":1}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "cut": b'{"a":1',
    "two-values": b"{}{}",
    "a-list": b"[]",
    "a-number": b"1",
    "null": b"null",
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":Infinity}',
    "minus-infinity": b'{"a":-Infinity}',
    "repeated-key": b'{"a":1,"a":1}',
    "repeated-key-deep": b'{"b":[{"a":1,"a":2}]}',
    "deep-lists": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep-objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "long-integer": b'{"a":' + b"9" * 100_000 + b"}",
    "nul": b'{"a":1}\x00',
}


@pytest.mark.parametrize("data", BAD_JSON.values(), ids=BAD_JSON)
def test_what_is_not_the_json_of_the_format_is_refused_at_once(data):
    started = time.monotonic()
    with pytest.raises(FormatError, match="here"):
        parse_object(data, where="here")
    assert time.monotonic() - started < 1


class Page(NamedTuple):
    start: Count
    stop: Annotated[int, within(1, 9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    n_images: Annotated[Count, Key("images")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: ObjectName
    count: Count
    bounded: Annotated[int, within(-2, 2)]
    score: Annotated[float, within(-1, 1)]
    text: Annotated[str, longest(3)]
    kind: Annotated[str, one_of("a", "b")]
    flag: bool
    uid: Annotated[bytes, Hex(2)]
    digest: Annotated[str, Hex(2)]
    checksum: Annotated[int, Hex(2), Key("crc")]
    inner: Inner
    inners: Annotated[tuple[Inner, ...], longest(2)]
    pages: Annotated[tuple[Page, ...], longest(2)]
    options: Annotated[dict[str, Annotated[str, longest(2)]], longest(2)]
    maybe: Inner | None
    anything: object
    later: Annotated[tuple[Count, ...], longest(2)] = ()
    latest: dict[str, int] = field(default_factory=dict)


TABLE = {
    "name": "index/a.pcri",
    "count": MAX_INT,
    "bounded": -2,
    "score": 1.0,
    "text": "abc",
    "kind": "b",
    "flag": True,
    "uid": "00ff",
    "digest": "abcd",
    "crc": "000a",
    "inner": {"images": 0},
    "inners": [{"images": 1}, {"images": 2}],
    "pages": [[0, 1], [1, 9]],
    "options": {"k": "v"},
    "maybe": None,
    "anything": [["x", None]],
    "later": [3],
    "latest": {"x": -1},
}
OUTER = Outer(
    name="index/a.pcri",
    count=MAX_INT,
    bounded=-2,
    score=1.0,
    text="abc",
    kind="b",
    flag=True,
    uid=b"\x00\xff",
    digest="abcd",
    checksum=10,
    inner=Inner(n_images=0),
    inners=(Inner(n_images=1), Inner(n_images=2)),
    pages=(Page(0, 1), Page(1, 9)),
    options={"k": "v"},
    maybe=None,
    anything=[["x", None]],
    later=(3,),
    latest={"x": -1},
)


def read(**changes):
    return from_json(Outer, {**TABLE, **changes}, where="here")


def test_json_becomes_a_dataclass_and_back():
    assert read() == OUTER
    assert to_json(OUTER) == TABLE
    assert parse_object(encode_json(OUTER), where="here") == TABLE
    assert read(maybe={"images": 4}).maybe == Inner(n_images=4)
    assert read(score=1) == OUTER
    assert type(read(score=1).score) is float


def test_several_dataclasses_make_one_object_with_sorted_keys():
    text = encode_json(Inner(n_images=2), from_json(Outer, TABLE, where="here"))
    assert json.loads(text) == {**TABLE, "images": 2}
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_unknown_keys_are_ignored():
    assert read(unknown=1, inner={"images": 0, "more": []}) == OUTER


@pytest.mark.parametrize("name", TABLE)
def test_a_field_may_be_missing_where_it_has_a_default(name):
    table = {key: value for key, value in TABLE.items() if key != name}
    if name in ("later", "latest"):
        assert getattr(from_json(Outer, table, where="here"), name) in ((), {})
    else:
        with pytest.raises(FormatError, match=f"here: {name} is missing"):
            from_json(Outer, table, where="here")


NUMBERS = {
    "minus": -3,
    "huge": 2**63,
    "bool": True,
    "text": "1",
    "float": 0.5,
    "null": None,
    "list": [1],
    "infinite": json.loads("1e999"),
}
REFUSED = {
    # A row: field, value, place in the error, words of the error.
    **{f"count-{k}": ("count", v, "count", "integer in 0..") for k, v in NUMBERS.items()},
    **{f"bounded-{k}": ("bounded", v, "bounded", "in -2..2") for k, v in NUMBERS.items()},
    "over": ("bounded", 3, "bounded", "an integer in -2..2, got 3"),
    "score-over": ("score", 1.5, "score", "a number in -1..1, got 1.5"),
    "score-infinite": ("score", NUMBERS["infinite"], "score", "a number"),
    "score-bool": ("score", True, "score", "a number"),
    "score-text": ("score", "1", "score", "a number"),
    "text-long": ("text", "abcd", "text", "a string of length 0 to 3"),
    "text-number": ("text", 1, "text", "a string"),
    "kind-other": ("kind", "c", "kind", "one of a, b"),
    "kind-list": ("kind", [], "kind", "one of a, b"),
    "flag-number": ("flag", 1, "flag", "true or false"),
    "uid-upper": ("uid", "00FF", "uid", "4 lower-case hexadecimal digits"),
    "uid-spaces": ("uid", "00 ff", "uid", "4 lower-case"),
    "uid-odd": ("uid", "00f", "uid", "4 lower-case"),
    "uid-long": ("uid", "00ff00", "uid", "4 lower-case"),
    "uid-number": ("uid", 255, "uid", "4 lower-case"),
    "digest-short": ("digest", "ab", "digest", "4 lower-case"),
    "checksum-number": ("crc", 10, "crc", "4 lower-case"),
    "object-list": ("inner", [], "inner", "an object"),
    "object-null": ("inner", None, "inner", "an object"),
    "object-field": ("inner", {"images": -1}, r"inner\.images", "an integer"),
    "object-empty": ("inner", {}, r"inner\.images", ""),
    "items-many": ("inners", [{"images": 1}] * 3, "inners", "a list of length 0 to 2"),
    "items-object": ("inners", {}, "inners", "a list"),
    "items-place": ("inners", [{"images": 1}, {"images": "x"}], r"inners\[1\]\.images", "integer"),
    "row-short": ("pages", [[1]], r"pages\[0\]", "a list of 2 items"),
    "row-long": ("pages", [[1, 2, 3]], r"pages\[0\]", "a list of 2 items"),
    "row-object": ("pages", [{"start": 1}], r"pages\[0\]", "a list of 2 items"),
    "row-place": ("pages", [[0, 1], [1, 10]], r"pages\[1\]\[1\]", "in 1..9"),
    "table-many": ("options", {"a": "", "b": "", "c": ""}, "options", "an object of length 0 to 2"),
    "table-list": ("options", [], "options", "an object"),
    "table-place": ("options", {"k": "abc"}, r"options\.k", "of length 0 to 2"),
    "optional": ("maybe", {"images": -1}, r"maybe\.images", "an integer"),
}


@pytest.mark.parametrize(("name", "value", "place", "words"), REFUSED.values(), ids=REFUSED)
def test_a_field_out_of_bounds_is_refused_by_its_place(name, value, place, words):
    with pytest.raises(FormatError, match=rf"^here: {place} (must be|is missing).*{words}"):
        read(**{name: value})


NAMES = {
    "index/a-000001.pcri": True,
    "zarr/ab/group_1/c/0": True,
    "a": True,
    "": False,
    "/etc/passwd": False,
    "a/": False,
    "a//b": False,
    "..": False,
    "../a": False,
    "a/../../b": False,
    "a/..": False,
    "./a": False,
    "a/.": False,
    "s3://bucket/a": False,
    "file:///etc/passwd": False,
    "C:\\a": False,
    "a\\..\\b": False,
    "a\nb": False,
    "a\x00b": False,
    "\u00e9": False,
    "a" * 1024: True,
    "a" * 1025: False,
}


@pytest.mark.parametrize(("name", "fine"), NAMES.items(), ids=lambda v: repr(v)[:24])
def test_object_names_stay_below_the_dataset(name, fine):
    if fine:
        assert read(name=name).name == name
    else:
        with pytest.raises(FormatError, match="name must be"):
            read(name=name)


def test_an_error_shows_little_of_what_it_got():
    with pytest.raises(FormatError) as caught:
        read(count="x" * 5000)
    assert len(str(caught.value)) < 300


def test_a_type_without_json_is_the_programmers_mistake():
    with pytest.raises(TypeError, match="no JSON is known"):
        from_json(complex, 1, where="here")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=80)
@given(name=st.sampled_from(sorted(TABLE)), value=values)
def test_any_value_is_read_or_refused(name, value):
    """No other exception gets out."""
    with contextlib.suppress(FormatError):
        read(**{name: value})
    with contextlib.suppress(FormatError):
        from_json(Outer, value, where="here")
