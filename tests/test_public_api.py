"""Names, arguments, options and JSON keys that users have stay: more may come, none may go."""

import json

import pytest
from public_api import RECORD, gone, today

RECORDED = json.loads(RECORD.read_text())


def test_nothing_of_the_public_api_is_gone():
    assert list(gone(RECORDED, today())) == []


PARAMETERS = [["url", "POSITIONAL_OR_KEYWORD", None], ["engine", "KEYWORD_ONLY", "'auto'"]]
GONE = {
    "name": ({"a": {}}, {}, "api: a is gone"),
    "parameter": ({"call": PARAMETERS}, {"call": PARAMETERS[:1]}, "parameter engine is gone"),
    "default": (
        {"call": PARAMETERS},
        {"call": [PARAMETERS[0], ["engine", "KEYWORD_ONLY", "'fsspec'"]]},
        "parameter engine was KEYWORD_ONLY = 'auto'",
    ),
    "position": (
        {"call": PARAMETERS},
        {"call": [["new", "POSITIONAL_OR_KEYWORD", "1"], *PARAMETERS]},
        "expected the positional parameters ['url'] first",
    ),
    "option": ({"words": ["--json", "-j"]}, {"words": ["--json"]}, "api.words: -j is gone"),
    "key": ({"images": [{"key": None}]}, {"images": [{}]}, "api.images[]: key is gone"),
    "kind": ({"call": None, "value": "function"}, {"value": "type"}, "call is gone"),
}


@pytest.mark.parametrize(("recorded", "now", "finding"), GONE.values(), ids=GONE)
def test_what_is_gone_is_found(recorded, now, finding):
    assert any(finding in line for line in gone(recorded, now))


def test_what_is_added_is_no_finding():
    more = [*PARAMETERS, ["cache", "KEYWORD_ONLY", "None"]]
    assert list(gone({"call": PARAMETERS}, {"call": more, "members": {}})) == []
