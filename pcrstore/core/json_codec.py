"""JSON objects from and to frozen dataclasses, by the annotations of their fields.

Pure. Manifests and index directories come from a bucket and may be hostile: every value is held to
its type and bounds before anything is made of it, and every error names its place.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Part:
        name: ObjectName                                   "name": "index/a.pcri"
        uid: Annotated[bytes, Hex(2)]                      "uid": "00ff"
        n_images: Annotated[Count, Key("images")]          "images": 5
        pages: Annotated[tuple[Page, ...], longest(64)]    "pages": [[0, 5], [5, 9]]
        note: Annotated[str, longest(80)] = ""             may be missing, and is "" then

    from_json(Part, {"name": "index/a.pcri", "uid": "00ff", "images": -5, ...}, where="m")
    FormatError: m: images must be an integer in 0..9007199254740991, got -5

A dataclass is a JSON object and a NamedTuple a list. Fields with a default may be missing; unknown
keys are ignored, as a later version may have written them. To add a field to a format: annotate it,
and give it a default where older objects lack it. `object` stands for any JSON.
"""

import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Final, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from pcrstore.errors import FormatError

__all__ = [
    "MAX_INT",
    "Count",
    "Hex",
    "Key",
    "ObjectName",
    "encode_json",
    "from_json",
    "longest",
    "one_of",
    "parse_object",
    "refuse",
    "to_json",
    "within",
]

_T = TypeVar("_T")

MAX_INT: Final = 2**53 - 1
"""Largest integer that every JSON reader holds exactly."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition on a value, and its words behind "an integer" or the like in an error."""

    words: str
    holds: Callable[..., bool]


def within(low: float, high: float = MAX_INT) -> Bound:
    """Bound an int or float; both ends are included."""
    return Bound(f"in {low}..{high}", lambda value: low <= value <= high)


def longest(n: int) -> Bound:
    """Bound the characters of a str, or the items of a tuple or dict."""
    return Bound(f"of length 0 to {n}", lambda value: len(value) <= n)


def one_of(*choices: str) -> Bound:
    """Allow some strings only."""
    return Bound(f"that is one of {', '.join(choices)}", choices.__contains__)


def _is_relative(name: str) -> bool:
    if len(name) > 1024 or any(part in ("", ".", "..") for part in name.split("/")):
        return False
    return name.isascii() and name.isprintable() and ":" not in name and "\\" not in name


@dataclass(frozen=True, slots=True)
class Hex:
    """Lower-case hexadecimal digits, two for each of `n_bytes`; of bytes, a str or an int."""

    n_bytes: int


@dataclass(frozen=True, slots=True)
class Key:
    """Name of a field in JSON, where it differs from the dataclass's."""

    name: str


Count = Annotated[int, within(0)]
ObjectName = Annotated[str, Bound("that is an object name relative to the dataset", _is_relative)]
"""A name below the dataset: no URL, and no way out of its folder."""

_DEFAULT_BOUNDS: Final[dict[object, Bound]] = {
    int: within(-MAX_INT),
    float: within(-MAX_INT),
    str: longest(4096),
    tuple: longest(4096),
    dict: longest(4096),
}
_KINDS: Final[dict[object, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a list",
    dict: "an object",
}


class _RefusedError(Exception):
    """A value that is not what its type says; `path` grows from the inside out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path: list[str | int] = []

    def __str__(self) -> str:
        steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path[::-1]]
        return f"{''.join(steps).removeprefix('.')} {self.args[0]}".lstrip()


def _other(expected: str, got: object) -> _RefusedError:
    return _RefusedError(f"must be {expected}, got {repr(got)[:80]}")


@dataclass(frozen=True, slots=True)
class _Codec:
    """The two directions of one type; `read` raises `_RefusedError`."""

    read: Callable[[object], object]
    write: Callable[..., object]


def parse_object(data: bytes, *, where: str) -> dict[str, object]:
    """Parse a JSON object.

    Raises:
        FormatError: Not UTF-8, not JSON, nested too deep, repeated keys, NaN, or not an object.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key is repeated")
        return table

    def refuse_constant(word: str) -> NoReturn:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=unique
        )
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{where}: not the JSON that pcrstore writes: {e}") from e
    if not isinstance(value, dict):
        raise FormatError(f"{where}: must be a JSON object, got {type(value).__name__}")
    return value


def from_json(cls: type[_T], value: object, *, where: str) -> _T:
    """Make a dataclass of parsed JSON.

    Raises:
        FormatError: A field that is missing, of another type or out of bounds, which is named as in
            `where: parts[3].images`.
    """
    try:
        made = _codec(cls).read(value)
    except _RefusedError as e:
        raise FormatError(f"{where}: {e}") from None
    assert isinstance(made, cls)  # noqa: S101 - tells mypy: the codec of a class makes that class
    return made


def to_json(value: object) -> dict[str, object]:
    """Return the JSON of a dataclass; bounds are checked when it is read."""
    table = _codec(type(value)).write(value)
    assert isinstance(table, dict)  # noqa: S101 - tells mypy: a dataclass is written as an object
    return table


def encode_json(*values: object) -> bytes:
    """Return the JSON object of the fields of some dataclasses; equal ones give equal bytes."""
    table = {key: field for value in values for key, field in to_json(value).items()}
    return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()


def refuse(where: str, name: str, expected: str, got: object) -> NoReturn:
    """Raise the `FormatError` of a field that is not what is expected."""
    raise FormatError(f"{where}: {name} {_other(expected, got)}")


def _same(value: object) -> object:
    return value


_codecs: Final[dict[object, _Codec]] = {}


def _codec(hint: object) -> _Codec:
    """Return the codec of a type, which is made once."""
    if hint not in _codecs:
        _codecs[hint] = _make_codec(hint)
    return _codecs[hint]


def _make_codec(hint: object) -> _Codec:
    metadata: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        metadata = tuple(rest)
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    for note in metadata:
        if isinstance(note, Hex):
            return _hexadecimal(kind, note.n_bytes)
    bounds = [note for note in metadata if isinstance(note, Bound)]
    bound = bounds[0] if bounds else _DEFAULT_BOUNDS.get(kind)
    if kind is object:
        return _Codec(_same, _same)
    if kind in (Union, UnionType):
        [inner] = [_codec(argument) for argument in arguments if argument is not NoneType]
        return _optional(inner)
    if isinstance(kind, type) and arguments and bound:
        return _container(kind, _codec(arguments[0 if kind is tuple else 1]), bound)
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, tuple)):
        return _record(kind)
    if isinstance(kind, type) and kind in _KINDS:
        return _scalar(kind, bound)
    raise TypeError(f"no JSON is known for {hint}")


def _scalar(kind: type, bound: Bound | None) -> _Codec:
    expected = f"{_KINDS[kind]} {bound.words}" if bound else _KINDS[kind]
    kinds = (int, float) if kind is float else (kind,)  # JSON does not tell 1 from 1.0
    holds: Callable[..., bool] = bound.holds if bound else lambda _: True

    def read(value: object) -> object:
        if type(value) not in kinds or not holds(value):  # not isinstance: true is no integer
            raise _other(expected, value)
        return value

    convert: Callable[..., object] = float
    return _Codec((lambda value: convert(read(value))) if kind is float else read, _same)


def _hexadecimal(kind: object, n_bytes: int) -> _Codec:
    def read(value: object) -> object:
        try:
            raw = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            raw = b""
        if len(raw) != n_bytes or raw.hex() != value:  # fromhex takes spaces and upper case
            raise _other(f"{2 * n_bytes} lower-case hexadecimal digits", value)
        return raw if kind is bytes else int.from_bytes(raw) if kind is int else value

    if kind is int:
        return _Codec(read, f"{{:0{2 * n_bytes}x}}".format)
    return _Codec(read, bytes.hex if kind is bytes else _same)


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        lambda value: None if value is None else inner.read(value),
        lambda value: None if value is None else inner.write(value),
    )


def _container(kind: type, item: _Codec, bound: Bound) -> _Codec:
    """Return the codec of `tuple[X, ...]`, a list, or of `dict[str, X]`, an object."""
    expected = f"{_KINDS[kind]} {bound.words}"

    def read(value: object) -> object:
        if not isinstance(value, list if kind is tuple else dict) or not bound.holds(value):
            raise _other(expected, value)
        out: dict[str | int, object] = {}
        place: str | int = 0
        try:
            for place, one in enumerate(value) if isinstance(value, list) else value.items():
                out[place] = item.read(one)
        except _RefusedError as e:
            e.path.append(place)
            raise
        return tuple(out.values()) if kind is tuple else out

    if kind is tuple:
        return _Codec(read, lambda value: [item.write(one) for one in value])
    return _Codec(read, lambda value: {key: item.write(one) for key, one in value.items()})


def _record(cls: type) -> _Codec:
    """Return the codec of a dataclass, an object, or of a NamedTuple, a list."""
    hints = get_type_hints(cls, include_extras=True)
    is_row, n = issubclass(cls, tuple), len(hints)
    optional = {
        f.name
        for f in (fields(cls) if is_dataclass(cls) else ())
        if f.default is not MISSING or f.default_factory is not MISSING
    }
    plan = [
        (name, i if is_row else _key(name, hint), _codec(hint), attrgetter(name))
        for i, (name, hint) in enumerate(hints.items())
    ]

    def read(value: object) -> object:
        if not isinstance(value, list if is_row else dict) or (is_row and len(value) != n):
            raise _other(f"a list of {n} items" if is_row else "an object", value)
        table = dict(enumerate(value)) if isinstance(value, list) else value
        out: dict[str, object] = {}
        key: str | int = 0
        try:
            for name, key, codec, _ in plan:
                if key in table:
                    out[name] = codec.read(table[key])
                elif name not in optional:
                    _refuse_missing()
        except _RefusedError as e:
            e.path.append(key)
            raise
        return cls(**out)

    def write(value: object) -> object:
        written = {key: codec.write(get(value)) for _, key, codec, get in plan}
        return [*written.values()] if is_row else written

    return _Codec(read, write)


def _refuse_missing() -> NoReturn:
    raise _RefusedError("is missing")


def _key(name: str, hint: object) -> str:
    """Return the name of a field in JSON."""
    return next((m.name for m in getattr(hint, "__metadata__", ()) if isinstance(m, Key)), name)
