"""Structs come back from their JSON, and JSON that is not theirs is refused in few words."""

import tracemalloc
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from pcrstore.core.typed_json import (
    MAX_INT,
    Count,
    ObjectName,
    Stored,
    Uid,
    Word,
    decode_json,
    encode_json,
    refuse,
)
from pcrstore.errors import FormatError


class Leaf(Stored, frozen=True, array_like=True):
    first: Count
    second: Count = 0


class Tree(Stored, frozen=True, kw_only=True, rename={"n_bytes": "bytes"}):
    kind: Literal["tree"] = "tree"
    n_bytes: Count = 0
    uid: Uid = "0" * 32
    name: ObjectName = "a"
    word: Word = ""
    score: float = 0.0
    leaves: Annotated[tuple[Leaf, ...], Meta(max_length=3)] = ()
    texts: dict[str, str] = msgspec.field(default_factory=dict)
    maybe: Count | None = None


def decode(text):
    return decode_json(text, Tree, where="here")


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@given(
    n=st.integers(0, MAX_INT),
    word=names,
    score=st.floats(allow_nan=False, allow_infinity=False),
    leaves=st.lists(st.builds(Leaf, st.integers(0, 9), st.integers(0, 9)), max_size=3),
    texts=st.dictionaries(names, names, max_size=3),
)
def test_a_struct_round_trips_and_equal_ones_have_equal_bytes(n, word, score, leaves, texts):
    tree = Tree(n_bytes=n, word=word, score=score, leaves=tuple(leaves), texts=texts)
    data = encode_json(tree)
    assert decode(data) == tree
    backwards = Tree(n_bytes=n, word=word, score=score, leaves=tuple(leaves), texts={})
    backwards.texts.update(reversed(texts.items()))
    assert encode_json(backwards) == data


ACCEPTED = {
    "empty": (b"{}", Tree()),
    "space-around": (b' \n{"bytes" : 5}\t', Tree(n_bytes=5)),
    "unknown-field": (b'{"later": {"a": [1, "x", null, 1e400]}, "bytes": 5}', Tree(n_bytes=5)),
    "unknown-item": (b'{"leaves": [[1, 2, 3, "later"]]}', Tree(leaves=(Leaf(1, 2),))),
    "missing-item": (b'{"leaves": [[1]]}', Tree(leaves=(Leaf(1, 0),))),
    "largest": (b'{"bytes": 9007199254740991}', Tree(n_bytes=MAX_INT)),
    "null": (b'{"maybe": null}', Tree()),
    "integer-as-float": (b'{"score": 1}', Tree(score=1.0)),
    "most-leaves": (b'{"leaves": [[1], [2], [3]]}', Tree(leaves=(Leaf(1), Leaf(2), Leaf(3)))),
    "text": ('{"word": "\u00e9\\u00e9"}'.encode(), Tree(word="\u00e9\u00e9")),
    "longest-word": (b'{"word": "%s"}' % (b"w" * 64), Tree(word="w" * 64)),
}


@pytest.mark.parametrize(("text", "tree"), ACCEPTED.values(), ids=ACCEPTED)
def test_json_that_fits_is_accepted(text, tree):
    assert decode(text) == tree


WRONG = {
    "minus": (b'{"bytes": -1}', r"Expected `int` >= 0 - at `\$\.bytes`, got -1"),
    "too-large": (b'{"bytes": 9007199254740992}', r"at `\$\.bytes`, got 9007199254740992"),
    "fraction": (b'{"bytes": 1.0}', r"at `\$\.bytes`, got 1\.0"),
    "exponent": (b'{"bytes": 1e2}', r"at `\$\.bytes`, got 100\.0"),
    "true": (b'{"bytes": true}', r"at `\$\.bytes`, got True"),
    "null": (b'{"bytes": null}', r"at `\$\.bytes`, got None"),
    "text": (b'{"bytes": "1"}', r"at `\$\.bytes`, got '1'"),
    "place": (b'{"leaves": [[1], [-2]]}', r"at `\$\.leaves\[1\]\[0\]`, got -2"),
    "no-leaf": (b'{"leaves": [[]]}', r"at `\$\.leaves\[0\]`, got \[\]"),
    "four-leaves": (b'{"leaves": [[1], [2], [3], [4]]}', r"at `\$\.leaves`, got \[\[1\]"),
    "in-a-dict": (b'{"texts": {"a": 1}}', "Expected `str`"),
    "kind": (b'{"kind": "bush"}', r"Invalid enum value 'bush'"),
    "long-word": (b'{"word": "%s"}' % (b"w" * 65), r"at `\$\.word`, got 'w"),
    "infinite": (b'{"score": 1e999}', r"at `\$\.score`"),
    "nan": (b'{"score": NaN}', "not the JSON"),
    "array": (b"[]", "Expected `object`"),
    "nothing": (b"", "not the JSON"),
    "cut": (b'{"bytes": 5', "not the JSON"),
    "two": (b"{}{}", "not the JSON"),
    "comment": (b"{/**/}", "not the JSON"),
    "byte-order-mark": (b"\xef\xbb\xbf{}", "not the JSON"),
    "utf-16": ("{}".encode("utf-16"), "not the JSON"),
    "latin-1": (b'{"word": "\xe9"}', "not the JSON"),
    "surrogate": (b'{"word": "\\ud800"}', "not the JSON"),
    "surrogate-in-utf-8": (b'{"word": "\xed\xa0\x80"}', "not the JSON"),
    "control": (b'{"word": "a\nb"}', "not the JSON"),
    "deep": (b'{"later": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", "not the JSON"),
    # What follows a wrong value may be no JSON, or nothing that Python parses.
    "then-rubbish": (b'{"bytes": -1, rubbish', r"at `\$\.bytes`"),
    "then-deep": (b'{"bytes": -1, "a": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", r"\$\.bytes"),
    "then-digits": (b'{"bytes": -1, "a": %s}' % (b"9" * 9999), r"at `\$\.bytes`"),
    "digits": (b'{"bytes": %s}' % (b"9" * 9999), r"at `\$\.bytes`"),
    "then-latin-1": (b'{"bytes": -1, "a": "\xe9"}', r"at `\$\.bytes`"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_json_that_does_not_fit_is_refused(text, message):
    with pytest.raises(FormatError, match=f"^here: .*{message}") as caught:
        decode(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["kind", "uid", "name", "word", "bytes"])
def test_a_long_text_is_not_repeated(field):
    with pytest.raises(FormatError, match="here: ") as caught:
        decode(b'{"%s": "%s"}' % (field.encode(), b"\\u001bx" * 9999))
    assert len(str(caught.value)) < 600
    assert "\x1b" not in str(caught.value)


def test_a_long_json_is_not_parsed_again():
    with pytest.raises(FormatError, match=r"^here: Expected `int` >= 0 - at `\$\.bytes`$"):
        decode(b'{"bytes": -1}' + b" " * 2**20)


NAMES = {
    "plain": ("objects/a.pcr", True),
    "printable": (" !\"#$%&'()*+,-.0123456789;<=>?@AZ[]^_`az{|}~", True),
    "dots": ("a/.../..b/c.", True),
    "longest": ("n" * 1024, True),
    "long": ("n" * 1025, False),
    "empty": ("", False),
    "absolute": ("/a", False),
    "folder": ("a/", False),
    "empty-part": ("a//b", False),
    "dot": ("./a", False),
    "up": ("../a", False),
    "up-inside": ("a/../b", False),
    "up-last": ("a/..", False),
    "dot-last": ("a/.", False),
    "url": ("s3://b/a", False),
    "drive": ("c:a", False),
    "windows": ("a\\b", False),
    "control": ("a\x1fb", False),
    "delete": ("a\x7f", False),
    "not-ascii": ("\u00e9", False),
    "newline": ("a\n", False),
    "newline-inside": ("a\nb", False),
    "up-newline": ("..\n", False),
}
UIDS = {
    "digits": ("0123456789abcdef" * 2, True),
    "short": ("0" * 31, False),
    "long": ("0" * 33, False),
    "upper": ("A" * 32, False),
    "other": ("g" * 32, False),
    "newline": ("0" * 32 + "\n", False),
    "newline-for-a-digit": ("0" * 31 + "\n", False),
}


@pytest.mark.parametrize(
    ("field", "text", "fine"),
    [
        *(pytest.param("name", *row, id=f"name-{row_id}") for row_id, row in NAMES.items()),
        *(pytest.param("uid", *row, id=f"uid-{row_id}") for row_id, row in UIDS.items()),
    ],
)
def test_names_and_uids_are_those_of_the_format(field, text, fine):
    data = encode_json({field: text})
    if fine:
        assert getattr(decode(data), field) == text
    else:
        with pytest.raises(FormatError, match=r"regex|length"):
            decode(data)


def test_a_refusal_names_all():
    with pytest.raises(FormatError, match=r"^here: n must be 5, got 'x{79}$"):
        refuse("here", "n", "5", "x" * 999)


def test_memory_of_structs_is_seen_by_tracemalloc():
    """So that the tests of hostile sizes measure what msgspec allocates."""
    text = b'{"texts": {%s}}' % b",".join(b'"%d":"%d"' % (i, i) for i in range(10_000))
    tracemalloc.start()
    try:
        tree = decode(text)
        n_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert n_bytes > len(tree.texts) * 2 * 49  # an empty str has 49 bytes
