"""Read JSON field by field, each with its type and bounds; see `json_codec`, which needs no code.

Pure.
"""

from collections.abc import Iterator, Mapping
from typing import NoReturn, TypeVar

from pcrstore.core.json_codec import MAX_INT, from_json, parse_object
from pcrstore.errors import FormatError

__all__ = ["JsonReader", "parse_json"]


def parse_json(data: bytes, *, where: str) -> "JsonReader":
    """Parse a JSON object; see `json_codec.parse_object`."""
    return JsonReader(parse_object(data, where=where), where)


_T = TypeVar("_T")


class JsonReader:
    """A JSON object read field by field, each with its type and bounds."""

    def __init__(self, table: Mapping[str, object], where: str) -> None:
        self._table = table
        self._where = where

    def fail(self, name: str, expected: str, got: object) -> NoReturn:
        """Raise `FormatError` for a field."""
        shown = repr(got)
        raise FormatError(f"{self._where}: {name} must be {expected}, got {shown[:80]}")

    def _get(self, name: str) -> object:
        if name not in self._table:
            raise FormatError(f"{self._where}: {name} is missing")
        return self._table[name]

    def has(self, name: str) -> bool:
        """Say whether the field is there and not null."""
        return self._table.get(name) is not None

    def names(self) -> list[str]:
        """Return the names of all fields."""
        return list(self._table)

    def integer(self, name: str, low: int, high: int = MAX_INT) -> int:
        """Return an integer in low..high."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(name, f"an integer in {low}..{high}", value)
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """Return a number in low..high."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, "a number", value)
        if not low <= value <= high:
            self.fail(name, f"a number in {low}..{high}", value)
        return float(value)

    def string(self, name: str, *, max_length: int = 4096) -> str:
        """Return a string of bounded length."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > max_length:
            self.fail(name, f"a string of at most {max_length} characters", value)
        return value

    def boolean(self, name: str) -> bool:
        """Return a boolean."""
        value = self._get(name)
        if not isinstance(value, bool):
            self.fail(name, "true or false", value)
        return value

    def hexadecimal(self, name: str, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes written as lower-case hexadecimal digits."""
        value = self.string(name)
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        if len(raw) != n_bytes or raw.hex() != value:
            self.fail(name, f"{2 * n_bytes} lower-case hexadecimal digits", value)
        return raw

    def object_name(self, name: str) -> str:
        """Return a name relative to the dataset: no URL, no way out of it."""
        value = self.string(name, max_length=1024)
        parts = value.split("/")
        if any(p in ("", ".", "..") for p in parts) or not value.isascii() or ":" in value:
            self.fail(name, "an object name relative to the dataset", value)
        if "\\" in value or not value.isprintable():
            self.fail(name, "an object name relative to the dataset", value)
        return value

    def items(self, name: str, *, max_items: int) -> list[object]:
        """Return a list of bounded length."""
        value = self._get(name)
        if not isinstance(value, list) or len(value) > max_items:
            self.fail(name, f"a list of at most {max_items} items", value)
        return value

    def integers(self, name: str, *, max_items: int, high: int = MAX_INT) -> tuple[int, ...]:
        """Return a list of integers in 0..high."""
        out: list[int] = []
        for value in self.items(name, max_items=max_items):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
                self.fail(name, f"integers in 0..{high}", value)
            out.append(value)
        return tuple(out)

    def numbers(self, name: str, *, max_items: int, low: float, high: float) -> tuple[float, ...]:
        """Return a list of numbers in low..high."""
        table = dict(enumerate(self.items(name, max_items=max_items)))
        inner = JsonReader({str(i): v for i, v in table.items()}, f"{self._where}: {name}")
        return tuple(inner.number(str(i), low, high) for i in table)

    def typed(self, name: str, cls: type[_T]) -> _T:
        """Return a nested object as a dataclass."""
        return from_json(cls, self._get(name), where=f"{self._where}: {name}")

    def object(self, name: str) -> "JsonReader":
        """Return a nested object."""
        value = self._get(name)
        if not isinstance(value, dict):
            self.fail(name, "an object", value)
        return JsonReader(value, f"{self._where}: {name}")

    def objects(self, name: str, *, max_items: int) -> Iterator["JsonReader"]:
        """Yield the nested objects of a list."""
        for i, value in enumerate(self.items(name, max_items=max_items)):
            if not isinstance(value, dict):
                self.fail(f"{name}[{i}]", "an object", value)
            yield JsonReader(value, f"{self._where}: {name}[{i}]")
