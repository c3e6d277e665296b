"""Every field of hostile JSON is held to its type and bounds, and the error names its path."""

import json

import pytest

from pcrstore.core.json_codec import MAX_INT
from pcrstore.core.json_reader import JsonReader, parse_json
from pcrstore.errors import FormatError

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
    "boolean": (lambda: F.boolean("true"), True),
    "hexadecimal": (lambda: F.hexadecimal("hex", 2), b"\x00\xff"),
    "integers": (lambda: F.integers("list", max_items=2, high=2), (1, 2)),
    "numbers": (lambda: F.numbers("list", max_items=2, low=0, high=2), (1.0, 2.0)),
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
    "object-list": lambda: F.object("list"),
    "objects-numbers": lambda: list(F.objects("list", max_items=2)),
    "objects-many": lambda: list(F.objects("objects", max_items=1)),
}


@pytest.mark.parametrize("read", REFUSED.values(), ids=REFUSED)
def test_fields_out_of_bounds_are_refused(read):
    with pytest.raises(FormatError, match="here"):
        read()


def test_an_error_names_its_path_and_shows_little_of_what_it_got():
    f = parse_json(b'{"parts":[{},{"name":"' + b"x" * 5000 + b'"}]}', where="manifests/a")
    second = list(f.objects("parts", max_items=2))[1]
    with pytest.raises(FormatError, match=r"manifests/a: parts\[1\]: name must be") as caught:
        second.integer("name", 0)
    assert len(str(caught.value)) < 300
