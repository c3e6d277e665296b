"""Every field of hostile JSON is held to its type and bounds, and the error names its path."""

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcrstore.core.json_reader import MAX_INT, JsonReader, parse_json
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
        parse_json(data, where="here")
    assert time.monotonic() - started < 1


F = JsonReader(
    {
        "zero": 0,
        "max": MAX_INT,
        "more": MAX_INT + 1,
        "minus": -1,
        "true": True,
        "half": 0.5,
        "whole": 1.0,
        "huge": json.loads("1e999"),
        "text": "abc",
        "digits": "7",
        "null": None,
        "list": [1, 2],
        "bools": [True],
        "texts": ["a", "bb"],
        "mixed": ["a", 1],
        "object": {"x": 1},
        "objects": [{"x": 1}, {}],
        "hex": "00ff",
        "HEX": "00FF",
        "spaced": "00 ff ",
        "odd": "00f",
    },
    "here",
)

ACCEPTED = {
    "integer-low": (lambda: F.integer("zero", 0), 0),
    "integer-high": (lambda: F.integer("max", 0), MAX_INT),
    "number": (lambda: F.number("half", 0, 1), 0.5),
    "number-integer": (lambda: F.number("zero", 0, 1), 0.0),
    "string": (lambda: F.string("text", max_length=3), "abc"),
    "choice": (lambda: F.choice("text", frozenset({"abc"})), "abc"),
    "boolean": (lambda: F.boolean("true"), True),
    "hexadecimal": (lambda: F.hexadecimal("hex", 2), b"\x00\xff"),
    "integers": (lambda: F.integers("list", max_items=2, high=2), (1, 2)),
    "numbers": (lambda: F.numbers("list", max_items=2, low=0, high=2), (1.0, 2.0)),
    "strings": (lambda: F.strings("texts", max_items=2, max_length=2), ("a", "bb")),
    "object": (lambda: F.object("object").integer("x", 1, 1), 1),
    "objects": (lambda: [o.names() for o in F.objects("objects", max_items=2)], [["x"], []]),
    "has": (lambda: (F.has("zero"), F.has("null"), F.has("nothing")), (True, False, False)),
}


@pytest.mark.parametrize(("read", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_fields_within_their_bounds(read, expected):
    assert read() == expected


REFUSED = {
    "integer-missing": lambda: F.integer("nothing", 0),
    "integer-over": lambda: F.integer("more", 0),
    "integer-under": lambda: F.integer("minus", 0),
    "integer-bool": lambda: F.integer("true", 0),
    "integer-float": lambda: F.integer("whole", 0),
    "integer-text": lambda: F.integer("digits", 0),
    "integer-null": lambda: F.integer("null", 0),
    "number-over": lambda: F.number("half", 0, 0.4),
    "number-infinite": lambda: F.number("huge", 0, 1),
    "number-bool": lambda: F.number("true", 0, 1),
    "number-text": lambda: F.number("digits", 0, 9),
    "string-long": lambda: F.string("text", max_length=2),
    "string-number": lambda: F.string("zero"),
    "choice-other": lambda: F.choice("text", frozenset({"x"})),
    "boolean-number": lambda: F.boolean("zero"),
    "hexadecimal-upper": lambda: F.hexadecimal("HEX", 2),
    "hexadecimal-spaces": lambda: F.hexadecimal("spaced", 2),
    "hexadecimal-odd": lambda: F.hexadecimal("odd", 2),
    "hexadecimal-length": lambda: F.hexadecimal("hex", 3),
    "items-many": lambda: F.items("list", max_items=1),
    "items-object": lambda: F.items("object", max_items=9),
    "integers-over": lambda: F.integers("list", max_items=2, high=1),
    "integers-bool": lambda: F.integers("bools", max_items=2),
    "numbers-over": lambda: F.numbers("list", max_items=2, low=0, high=1.5),
    "strings-long": lambda: F.strings("texts", max_items=2, max_length=1),
    "strings-mixed": lambda: F.strings("mixed", max_items=2),
    "object-list": lambda: F.object("list"),
    "objects-numbers": lambda: list(F.objects("list", max_items=2)),
    "objects-many": lambda: list(F.objects("objects", max_items=1)),
}


@pytest.mark.parametrize("read", REFUSED.values(), ids=REFUSED)
def test_fields_out_of_bounds_are_refused(read):
    with pytest.raises(FormatError, match="here"):
        read()


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
    f = JsonReader({"name": name}, "here")
    if fine:
        assert f.object_name("name") == name
    else:
        with pytest.raises(FormatError, match="name must be"):
            f.object_name("name")


def test_an_error_names_its_path_and_shows_little_of_what_it_got():
    f = parse_json(b'{"parts":[{},{"name":"' + b"x" * 5000 + b'"}]}', where="manifests/a")
    second = list(f.objects("parts", max_items=2))[1]
    with pytest.raises(FormatError, match=r"manifests/a: parts\[1\]: name must be") as caught:
        second.integer("name", 0)
    assert len(str(caught.value)) < 300


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=80)
@given(value=values)
def test_any_value_is_read_or_refused(value):
    """No reader of a field lets another exception out."""
    f = JsonReader({"v": value}, "here")
    for read in (
        lambda: f.integer("v", 0),
        lambda: f.number("v", 0, 1),
        lambda: f.string("v"),
        lambda: f.choice("v", frozenset({"a"})),
        lambda: f.boolean("v"),
        lambda: f.hexadecimal("v", 2),
        lambda: f.object_name("v"),
        lambda: f.integers("v", max_items=3),
        lambda: f.numbers("v", max_items=3, low=0, high=1),
        lambda: f.strings("v", max_items=3),
        lambda: f.object("v"),
        lambda: list(f.objects("v", max_items=3)),
    ):
        with contextlib.suppress(FormatError):
            read()
