"""Rules of FORMAT.md that hold between the values of a manifest, of an index part, of an image.

Pure: values in, sentences out, each of which says what is wrong.

    manifest  its JSON, its script, its names              `json_fault`, `manifest_faults`
    part      columns against headers and restore blobs    `part_faults`
    image     cells against what makes a JPEG              `image_fault`
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NoReturn

import numpy as np

from pcrstore.errors import FormatError, JpegError, PcrstoreError, ScriptError
from pcrstore.format import (
    FORMATS,
    OPAQUE,
    Column,
    Directory,
    Header,
    Manifest,
    Rows,
    Values,
    parse_header,
)
from pcrstore.jpeg import EOI, Kind, original, parse, parse_script, unpack_blob

__all__ = ["image_fault", "json_fault", "manifest_faults", "part_faults", "part_headers"]

_MAX_HEAD: Final = (64 << 20) + (1 << 12)
"""Bytes of the head of a restore blob; see FORMAT.md, section 7."""

_WHOLE: Final = frozenset({Kind.WHOLE, Kind.STORED})
"""Kinds of restore blobs that hold all bytes of the source file: nothing is coded again."""

_QUALITY: Final = "quality."
"""Beginning of the names of columns that hold the values of single images."""

_LOOKED_THROUGH: Final = 2**20
"""Bytes of a JSON text in which names that occur twice are looked for: parsed without types, it
takes 20 times that."""

_MAX_DEPTH: Final = 64
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
"""Strings and brackets."""
_STEPS: Final = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
"""Levels that a bracket adds."""


def json_fault(text: bytes) -> str | None:
    """Return what is wrong with a JSON text whose fields were decoded; None if nothing is.

    The decoder passes over fields that it does not know, and takes the last of two of one name.
    """

    def look(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name!r} occurs twice in an object")
            seen.add(name)

    if len(text) > _LOOKED_THROUGH:
        return None
    try:
        # As text, for Python makes no int of more than 4,300 digits.
        json.loads(text, object_pairs_hook=look, parse_int=str, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        return f"must be JSON: {e}"
    steps = (_STEPS.get(token[:1], 0) for token in _TOKENS.findall(text))
    if max(accumulate(steps)) > _MAX_DEPTH:
        return f"values must nest at most {_MAX_DEPTH} deep"
    return None


def manifest_faults(m: Manifest) -> Iterator[str]:
    """Yield what is wrong with a manifest that was decoded."""
    try:
        script = parse_script(m.script.text, name=m.script.name)
        if script.labels != m.group_labels:
            yield f"groups must be the script's {list(script.labels)}, got {list(m.group_labels)}"
    except ScriptError as e:
        yield f"script must be a legal one: {e}"
    if len({*m.classes}) != len(m.classes):
        yield "classes must be distinct"
    for q in m.quality:
        wrong = [p for p in q.percentiles if not _is_percentage(p)]
        if wrong:
            yield f"percentiles of {q.metric} must be numbers from 0 to 100, got {wrong[0]!r}"
    for c in m.columns:
        if c.name.startswith(_QUALITY) and (c.dtype, c.shape) != ("<f4", (m.n_groups,)):
            yield f"column {c.name} must be of <f4 [{m.n_groups}], got {c.dtype} {list(c.shape)}"


def _is_percentage(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None and float(text) <= 100


def part_headers(directory: Directory, rows: Rows) -> list[Header]:
    """Return the record headers of a part, which agree with its tables.

    Raises:
        FormatError: One is damaged, or lengths do not add up.
    """
    where = directory.entry.name
    headers = []
    ends = np.cumsum(rows.records["n_images"], dtype=np.int64).tolist()
    for i, (row, data, end) in enumerate(zip(rows.records, rows.headers, ends, strict=True)):
        n = int(row["n_images"])
        header = parse_header(
            data,
            seed=directory.seed(row),
            n_images=n,
            n_groups=directory.n_groups,
            where=f"{where}: header of record {i}",
        )
        blobs = int(rows.restore["length"][end - n : end].sum(dtype=np.int64))
        if [*header.group_lengths().tolist(), blobs] != row["length"].tolist():
            raise FormatError(f"{where}: lengths of cells and blobs of record {i} do not add up")
        headers.append(header)
    return headers


def part_faults(
    m: Manifest, directory: Directory, rows: Rows, headers: Sequence[Header]
) -> Iterator[str]:
    """Yield what is wrong with the columns of a part whose pages and headers were decoded."""
    for column in m.columns:
        try:
            block = directory.columns.get(column.name)
            if block is not None:
                block.require_known(f"{directory.entry.name}: values of {column.name}")
            column.require_known(directory.entry.name)
            values = rows.columns[column.name]
            m.ranges.check(column.name, values, directory.entry.name)
        except FormatError as e:
            yield str(e)
            continue
        if column.dtype == "json":
            yield from _json_faults(column, values)
    if len({run.name for run in directory.runs}) != len(directory.runs):
        yield "objects must name each run once"
    opaque = np.concatenate([h.opaque for h in headers])
    lengths = np.concatenate([h.lengths for h in headers])
    form, width, height, sizes = (
        np.asarray(rows.columns[name]) for name in ("format", "width", "height", "source_bytes")
    )
    for bad, rule in (
        ((form == OPAQUE) != opaque, "must be opaque in both format and header, or in neither"),
        ((width == 0) != opaque, "must have a width of 0 where it is opaque, and only there"),
        ((height == 0) != opaque, "must have a height of 0 where it is opaque, and only there"),
        (opaque & (sizes == 0), "is opaque: its file must have a byte"),
        (opaque & (lengths[:, 0] != sizes), "is opaque: source_bytes must be the length of cell 1"),
        (opaque & lengths[:, 1:].any(axis=1), "is opaque: cells 2..G must be empty"),
        (opaque & (rows.restore["length"] != 0), "is opaque: its restore blob must be empty"),
        (~opaque & (lengths == 0).any(axis=1), "must have no empty cell"),
    ):
        at = np.flatnonzero(bad)
        if len(at):
            yield f"image {at[0]} of the part {rule}"


def _json_faults(column: Column, values: Values) -> Iterator[str]:
    for i, value in enumerate(values):
        for text in _texts(value):
            try:
                json.loads(text, parse_constant=_no_number, parse_int=str)
            except (ValueError, RecursionError) as e:
                yield f"{column.name} of image {i} of the part must be JSON: {e}"
                return


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def image_fault(
    cells: Sequence[bytes], restore: bytes | None, *, form: int, size: tuple[int, int]
) -> str | None:
    """Return what is wrong with the cells and the restore blob of an image; None if nothing is.

    Args:
        cells: All G of it; their checksums hold.
        restore: Its restore blob.
        form: Its `format`. Of one that a later pcrstore wrote, nothing is known.
        size: Its width and height, by the columns.
    """
    if form == OPAQUE or form not in FORMATS:
        return None
    joined = b"".join(cells)
    try:
        jpeg = parse(joined + EOI)
        if restore is not None and unpack_blob(restore, cells, max_bytes=_MAX_HEAD).kind in _WHOLE:
            original(cells, restore)
    except JpegError as e:
        return f"must be a progressive JPEG: {e}"
    except PcrstoreError as e:
        return f"must have a restore blob: {e}"
    got = jpeg.frame.width, jpeg.frame.height
    edges = np.cumsum([len(c) for c in cells]).tolist()
    stops = {scan.ecs_stop for scan in jpeg.scans}
    for holds, rule in (
        (jpeg.frame.is_progressive, "must be a progressive JPEG, got a sequential one"),
        (got == size, f"must have {size[0]} x {size[1]} pixels, got {got[0]} x {got[1]}"),
        (jpeg.eoi == len(joined), f"must have no EOI in its cells, got one at byte {jpeg.eoi}"),
        (stops.issuperset(edges), f"must have cells that end where scans do, got ends {edges}"),
    ):
        if not holds:
            return rule
    return None
