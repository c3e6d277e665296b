"""JSON objects from and to typed structs, which are held to their bounds while they are parsed.

Pure. Manifests and index directories come from a bucket and may be hostile. msgspec makes the
structs without making anything of fields that are unknown. It holds a list to its longest only once
the list is made, and 16 MB of it may be four million strings of one letter, or 350 MB: so a text is
refused first that has so many values as to take far more memory than itself.

    class Part(Stored, frozen=True, kw_only=True, rename={"n_bytes": "bytes"}):
        name: ObjectName                                           "name": "index/a.pcri"
        uid: Uid                                                   "uid": "00ff..."
        n_bytes: Count                                             "bytes": 5
        pages: Annotated[tuple[Page, ...], Meta(max_length=64)]    "pages": [[0, 5], [5, 9]]
        note: Word = ""                                            may be missing, and is "" then

    decode_json(b'{"name": "index/a.pcri", "uid": "00ff", "bytes": -5}', Part, where="m")
    FormatError: m: Expected `int` >= 0 - at `$.bytes`, got -5

To add a field to a format: annotate it, and give it a default where older objects lack it.
"""

import json
import re
from functools import cache
from typing import Annotated, Final, NoReturn, TypeVar

import msgspec
import msgspec.inspect
import numpy as np
from msgspec import Meta

from pcrstore.errors import FormatError

__all__ = [
    "MAX_INT",
    "Count",
    "ObjectName",
    "Stored",
    "Uid",
    "Word",
    "decode_json",
    "encode_json",
    "refuse",
    "require_few_values",
]

_T = TypeVar("_T")

MAX_INT: Final = 2**53 - 1
"""Largest integer that every JSON reader holds exactly."""

Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
_END: Final = r"$(?!\n)"
"""The end of a text: in Python's patterns, `$` stands before a last newline, too."""

Uid = Annotated[str, Meta(pattern=f"^[0-9a-f]{{32}}{_END}")]
"""Unique id of a dataset, an object, an index part, a Zarr group or a conversion: 16 bytes."""
Word = Annotated[str, Meta(max_length=64)]
"""One of a set of words that later versions may add to; its reader says which it knows."""

_PART: Final = r"(?!\.{1,2}(/|$))[ -.0-9;-\[\]-~]+"
ObjectName = Annotated[str, Meta(max_length=1024, pattern=f"^{_PART}(/{_PART})*{_END}")]
"""A name below the dataset: no URL, and no way out of its folder."""

_VALUE_BYTES: Final = 88
_WIDE_BYTES: Final = 112
"""Bytes that a value of a list takes in memory at most: a short string and its place, where the
text is of ASCII alone, and where it is not."""
_ENTRY_BYTES: Final = 160
"""Bytes that an entry of a dictionary takes beside its value."""
_FREE_BYTES: Final = 64_000_000
_RATIO: Final = 3
"""The values of a text may take so many bytes, and so many for each of its own."""
_NO_MARKS: Final = bytes({*range(256)} - {*b'",:'})
_LOOKED_AT: Final = 2**20
"""Marks that are looked at at once."""

_SHOWN: Final = 2**20
"""Bytes of a text that is parsed once more to show a wrong value: untyped, that costs 20 times as
much."""
_LONGEST: Final = 200
"""Characters of msgspec's message, which may repeat a text of any length."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object of the format: immutable, equal by value, unknown fields ignored."""


def decode_json(data: bytes, cls: type[_T], *, where: str, is_weighed: bool = False) -> _T:
    """Parse a struct.

    Args:
        data: The text.
        cls: The struct.
        where: Name of the object, for error messages.
        is_weighed: True where the text went through `require_few_values`.

    Raises:
        FormatError: Not JSON in UTF-8, nested too deep, of too many values, or a field that is
            missing, of another type or out of bounds, which is named as in
            ``where: ... at `$.parts[3].n_images` ``.
    """
    if not is_weighed:
        require_few_values(data, cls, where=where)
    try:
        return msgspec.json.decode(data, type=cls)
    except msgspec.ValidationError as e:
        message = str(e)
        raise FormatError(f"{where}: {message[:_LONGEST]}{_got(data, message)}") from None
    except (msgspec.DecodeError, RecursionError) as e:
        raise FormatError(f"{where}: not the JSON that pcrstore writes: {e}") from None


def require_few_values(data: bytes, cls: type, *, where: str) -> None:
    """Raise `FormatError` where the values of a struct's text would take far more memory than it.

    A struct that has some of its fields alone can be parsed then, too.
    """
    most = _FREE_BYTES + _RATIO * len(data)
    upper = _WIDE_BYTES * data.count(b",") + _ENTRY_BYTES * data.count(b":")
    if upper > most and _costs_more(data, cls, most):
        raise FormatError(f"{where}: has more values than {len(data)} bytes of JSON may have")


def _costs_more(text: bytes, cls: type, most: int) -> bool:
    """Say whether the values of a text may take more than `most` bytes of memory.

    Each value but the first of a list follows a comma. Keys that are no field are a dictionary's;
    of a field's name, a dictionary has one.
    """
    commas, entries = _marks(text)
    is_plain = text.isascii() and b"\\u" not in text
    most -= commas * (_VALUE_BYTES if is_plain else _WIDE_BYTES)
    for name in _field_names(cls) if most >= 0 else ():
        if entries * _ENTRY_BYTES <= most:
            break
        entries -= text.count(b'"%s":' % name.encode())
    return entries * _ENTRY_BYTES > most


def _marks(text: bytes) -> tuple[int, int]:
    """Return the numbers of commas and colons outside of strings.

    Of `["a,b",1]` the marks `",",` are left, up to each of which there are 1, 1, 2 and 2 quotes:
    one comma is behind an even number of them.
    """
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS)
    commas = colons = quotes = 0
    for start in range(0, len(plain), _LOOKED_AT):
        marks = np.frombuffer(plain[start : start + _LOOKED_AT], np.uint8)
        before = np.cumsum(marks == ord('"'), dtype=np.uint8) + np.uint8(quotes)
        outside = marks[before % 2 == 0]
        commas += int(np.count_nonzero(outside == ord(",")))
        colons += int(np.count_nonzero(outside == ord(":")))
        quotes = int(before[-1]) % 2
    return commas, colons


@cache
def _field_names(cls: type) -> tuple[str, ...]:
    """Return the names of all fields of a struct or dataclass, and of those in it."""
    found: set[str] = set()
    waiting: list[object] = [msgspec.inspect.type_info(cls)]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, (msgspec.inspect.StructType, msgspec.inspect.DataclassType)):
            found.update(f.encode_name for f in kind.fields)
            waiting.extend(f.type for f in kind.fields)
        elif isinstance(kind, msgspec.inspect.UnionType):
            waiting.extend(kind.types)
        elif isinstance(kind, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
            waiting.append(kind.item_type)
        elif isinstance(kind, msgspec.inspect.DictType):
            waiting.append(kind.value_type)
    return tuple(sorted(found))


def encode_json(value: object) -> bytes:
    """Return the JSON of a struct; equal values give equal bytes, and bounds are not looked at."""
    return msgspec.json.encode(value, order="sorted")


def refuse(where: str, name: str, expected: str, got: object) -> NoReturn:
    """Raise the `FormatError` of a field that is not as expected."""
    raise FormatError(f"{where}: {name} must be {expected}, got {repr(got)[:80]}")


def _got(data: bytes, message: str) -> str:
    """Return the end of a message: the value at the place that the message names."""
    place = re.search(r"at `\$(.*)`$", message)
    if place is None or len(data) > _SHOWN:
        return ""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # what follows the wrong value may be no JSON
        return ""
    for key, item in re.findall(r"\.([^.\[]+)|\[(\d+)\]", place[1]):
        try:
            value = value[int(item)] if item else value[key]
        except (KeyError, IndexError, TypeError):
            return ""
    return f", got {repr(value)[:80]}"
