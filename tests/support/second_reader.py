"""A second reader of the format, written from FORMAT.md alone.

It imports the standard library, numpy and google_crc32c, a recoder written likewise, and nothing of
pcrstore: what it cannot do from the page, the page lacks. Local folders only; the plainest way.
"""

import json
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from recoder import recode

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
K33 = bytes.fromhex(
    "ffc4001f0000010501010101010100000000000000000102030405060708090a0bffc400b51000020103030204030505"
    "04040000017d01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718"
    "191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a83"
    "8485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6"
    "d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffc4001f0100030101010101010101010000000000000102"
    "030405060708090a0bffc400b51100020102040403040705040400010277000102031104052131061241510761711322"
    "328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a"
    "535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7"
    "a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
"""The preset dictionary's fixed part, section 4.5."""

MIB = 2**20
NAME = re.compile(r"(?!(.*/)?\.{1,2}(/|$))[ -.0-9;-\[\]-~]+(/[ -.0-9;-\[\]-~]+)*")
UID = re.compile(r"[0-9a-f]{32}")
NUMBERS = ["|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8"]
TEXTS = ["utf8", "json", "bytes"]
SYSTEM = {
    "key": ("utf8", []),
    "label": ("<i4", []),
    "split": ("|u1", []),
    "format": ("|u1", []),
    "orientation": ("|u1", []),
    "width": ("<u4", []),
    "height": ("<u4", []),
    "source_bytes": ("<u8", []),
    "source_sha256": ("|u1", [32]),
}
"""The columns that are always there, section 3.3."""

# Required fields and their types, sections 2.1, 2.2, 3.1.
MANIFEST = {
    **dict.fromkeys(["format", "uid", "created", "writer", "layout"], str),
    **dict.fromkeys(["features", "write_features", "groups", "classes", "splits"], list),
    **dict.fromkeys(["columns", "parts", "checked", "conversions"], list),
    **dict.fromkeys(["version", "n_images", "n_records"], int),
    **dict.fromkeys(["script", "bytes"], dict),
}
PART = {"name": str, "uid": str, "n_images": int, "n_records": int, "bytes": int, "directory": list}
CHECKED = {"name": str, "bytes": int, "crc32c": int}
CONVERSION = {"id": str, "created": str, "software": str, "n_images": int, "options": dict}
QUALITY = {"metric": str, "n_images": int, "mean": list, "low": list, "high": list}
DIRECTORY = {"uid": str, "n_groups": int, "n_images": int, "n_records": int}
RUN = {"name": str, "uid": str, "bytes": int}
BLOCK = {"name": str, "kind": str, "codec": str, "rows": int, "rows_per_page": int, "pages": list}


class RefusedError(ValueError):
    """The reader does not go on."""


class DamagedError(RefusedError):
    """Bytes break a rule of the page."""


class NewerError(RefusedError):
    """A word that the page does not name, section 1.1: a newer pcrstore is needed."""


def must(holds: object, rule: str) -> None:
    if not holds:
        raise DamagedError(rule)


def known(holds: object, word: str) -> None:
    if not holds:
        raise NewerError(f"{word} is of a newer pcrstore")


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def integer(data: bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], "little")


def has(value: object, fields: dict[str, type], where: str) -> None:
    must(isinstance(value, dict), f"{where} is an object")
    for name, kind in fields.items():
        must(type(value.get(name)) is kind, f"{where} has {name}, a {kind.__name__}")


def distinct(values: Sequence[object], what: str) -> None:
    must(len(set(values)) == len(values), f"distinct {what}")


def strict_json(data: bytes) -> object:
    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        distinct([name for name, _ in found], "names in an object")
        return dict(found)

    def whole(digits: str) -> int:
        must(len(digits) <= 17 and abs(int(digits)) < 2**53, "integers below 2^53")
        return int(digits)

    def constant(word: str) -> None:
        raise DamagedError(f"{word} is no JSON")

    hooks = {"object_pairs_hook": pairs, "parse_int": whole, "parse_constant": constant}
    try:
        value = json.loads(data.decode(), **hooks)
        json.dumps(value, ensure_ascii=False).encode()  # finds lone surrogates
    except RefusedError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"JSON: {error}") from error
    return value


def inflated(data: bytes, n_max: int, what: str, wbits: int = 15, zdict: bytes = b"") -> bytes:
    """What a whole deflated stream holds, at most `n_max` bytes."""
    unzip = zlib.decompressobj(wbits, zdict=zdict)
    try:
        out = unzip.decompress(data, n_max + 1)
    except zlib.error as error:
        raise DamagedError(f"{what}: {error}") from error
    must(unzip.eof and not unzip.unused_data and len(out) <= n_max, f"one stream: {what}")
    return out


class Store:
    """A folder; section 1."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def size(self, name: str) -> int:
        must(len(name) <= 1024 and NAME.fullmatch(name), f"a name: {name!r}")
        must((self.root / name).is_file(), f"{name} is there")
        return (self.root / name).stat().st_size

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        size = self.size(name)
        stop = size if stop is None else stop
        must(start <= stop <= size, f"{name} has bytes {start} to {stop}")
        with (self.root / name).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def bounded(self, name: str, n_max: int) -> bytes:
        must(self.size(name) <= n_max, f"{name} has at most {n_max} bytes")
        return self.read(name)


def manifest_name(version: int) -> str:
    return f"manifests/{2**32 - 1 - version:08x}.pcrm"


def newest(root: Path) -> int:
    """The newest version, by a LIST, section 1."""
    names = [path.name for path in (root / "manifests").iterdir()]
    found = [re.fullmatch(r"([0-9a-f]{8})\.pcrm", name) for name in names]
    versions = [2**32 - 1 - int(match[1], 16) for match in found if match]
    return max(version for version in versions if 1 <= version <= 2**32 - 2)


def newest_without_list(root: Path) -> int:
    """The newest version, by `latest`, section 2.3."""
    data = Store(root).bounded("latest", 64)
    line = re.fullmatch(rb"(pcrstore-latest ([1-9][0-9]*)) crc32c=([0-9a-f]{8})\n", data)
    must(line, "the line of latest")
    must(crc(line[1]) == int(line[3], 16), "checksum of latest")
    version = int(line[2])
    while (root / manifest_name(version + 1)).exists():
        version += 1
    return version


def labels_of(script: str) -> list[str]:
    """Labels of a script's groups, section 6."""
    lines = [line.split("#")[0].strip() for line in script.splitlines()]
    found = [re.fullmatch(r"\[([a-z0-9-]{1,32})\]", line) for line in lines]
    return [match[1] for match in found if match]


def read_manifest(store: Store, version: int) -> dict:
    """The JSON of a version's manifest, section 2."""
    line, _, body = store.bounded(manifest_name(version), 16 * MIB).partition(b"\n")
    number = rb"(0|[1-9][0-9]*)"
    envelope = rb"pcrstore-manifest v%b crc32c=([0-9a-f]{8}) bytes=%b" % (number, number)
    found = re.fullmatch(envelope, line)
    must(found, "first line of the manifest")
    must(len(body) == int(found[3]), "length of the manifest")
    must(crc(body) == int(found[2], 16), "checksum of the manifest")
    known(found[1] == b"1", f"version {int(found[1])} of the format")
    m = strict_json(body)
    has(m, MANIFEST, "the manifest")
    must(m["format"] == "pcrstore", "format")
    known(not m["features"], f"features {m['features']}")
    known(m["layout"] in ("record", "zarr"), f"layout {m['layout']}")
    must(m["version"] == version, "version is that of the name")
    n_groups = len(m["groups"])
    must(1 <= n_groups <= 32, "1 to 32 groups")
    must(labels_of(m["script"]["text"]) == m["groups"], "groups are those of the script")
    must(len(m["bytes"]["groups"]) == n_groups, "a total for each group")
    for name in ("groups", "classes", "splits"):
        distinct(m[name], name)
    tables = [("parts", PART), ("checked", CHECKED), ("conversions", CONVERSION)]
    tables += [("columns", {"name": str, "dtype": str, "shape": list}), ("quality", QUALITY)]
    m.setdefault("quality", [])
    for table, fields in tables:
        for row in m[table]:
            has(row, fields, table)
    for table in ("parts", "checked", "columns"):
        distinct([row["name"] for row in m[table]], f"names of {table}")
    distinct([row["metric"] for row in m["quality"]], "metrics")
    for row in m["quality"]:
        lists = [row["mean"], row["low"], row["high"], *row.get("percentiles", {}).values()]
        must(all(len(values) == n_groups for values in lists), "a measurement for each group")
    for row in m["conversions"]:
        names = [None, *(entry["name"] for entry in m["checked"])]
        must(row.get("report", 0) in names, "a report is checked, or null")
    for uid in [m["uid"], *(p["uid"] for p in m["parts"]), *(c["id"] for c in m["conversions"])]:
        must(UID.fullmatch(uid), "32 hex digits")
    columns = {c["name"]: (c["dtype"], c["shape"]) for c in m["columns"]}
    for name, of_page in SYSTEM.items():
        must(columns.get(name) == of_page, f"column {name}")
    for name in ("n_images", "n_records"):
        must(m[name] == sum(part[name] for part in m["parts"]), f"{name} is the parts' sum")
    return m


class Record(NamedTuple):
    """A row of the table of records, its header, and its rows of the table of restore blobs."""

    runs: list[dict]
    ordinal: int
    first_image: int
    n_images: int
    starts: list[int]
    lengths: list[int]
    header: bytes
    restore: np.ndarray


class Dataset:
    """A version of the dataset in a folder, the newest by default."""

    def __init__(self, root: Path, version: int | None = None) -> None:
        self.store = Store(root)
        self.version = newest(root) if version is None else version
        self.manifest = read_manifest(self.store, self.version)
        self.n_groups = len(self.manifest["groups"])
        self.parts = [Part(self, entry) for entry in self.manifest["parts"]]
        self.edges = np.cumsum([0, *(part.n_images for part in self.parts)]).tolist()

    def __len__(self) -> int:
        return int(self.manifest["n_images"])

    def column(self, name: str) -> list[object]:
        """Values of a column; None is null."""
        return [value for part in self.parts for value in part.column(name)]

    def checked(self, name: str) -> bytes:
        """An object that is read whole."""
        (entry,) = [entry for entry in self.manifest["checked"] if entry["name"] == name]
        data = self.store.bounded(name, min(entry["bytes"], 64 * MIB))
        must(len(data) == entry["bytes"], f"length of {name}")
        must(crc(data) == entry["crc32c"], f"checksum of {name}")
        return data

    def _image(self, image: int) -> tuple[int, list[bytes]]:
        """Format of an image, and its cells and restore blob."""
        p = bisect_right(self.edges, image) - 1
        return self.parts[p].image(image - self.edges[p])

    def cells(self, image: int) -> list[bytes]:
        """The G cells of an image and its restore blob."""
        return self._image(image)[1]

    def jpeg(self, image: int, fidelity: int) -> bytes:
        """The file of an image at a fidelity, section 4.4."""
        form, cells = self._image(image)
        return file_of(cells[: self.n_groups], fidelity, opaque=form == 1)

    def original(self, image: int) -> bytes:
        """The source file, section 4.5."""
        form, cells = self._image(image)
        return cells[0] if form == 1 else restored(cells[:-1], cells[-1])

    def check(self) -> None:
        """Check the rules that concern a whole version, and read all of it."""
        for i in range(len(self)):
            self.cells(i)
        for entry in self.manifest["columns"]:
            self.column(entry["name"])
        for entry in self.manifest["checked"]:
            self.checked(entry["name"])
        records = [record for part in self.parts for record in part.records]
        distinct([(r.runs[0]["uid"], r.ordinal) for r in records], "uid and ordinal of records")
        self._check_totals(records)
        self._check_stretches(records)
        for run in (run for part in self.parts for run in part.directory["objects"]):
            self._check_padding(run)
        if self.manifest["layout"] == "zarr":
            for conversion in self.manifest["conversions"]:
                Group(self, conversion["id"])

    def _check_totals(self, records: list[Record]) -> None:
        totals = self.manifest["bytes"]
        regions = np.sum([record.lengths for record in records], axis=0).tolist()
        must([*totals["groups"], totals["restore"]] == regions, "totals of regions")
        in_objects = self.manifest["layout"] == "record"
        headers = sum(len(record.header) for record in records) if in_objects else 0
        must(totals["headers"] == headers, "total of headers")
        must(totals["sources"] == sum(map(int, self.column("source_bytes"))), "total of sources")

    def _check_stretches(self, records: list[Record]) -> None:
        """Records share no bytes, and leave those that `unused` says."""
        stretches: dict[str, list[tuple[int, int]]] = {}
        for record in records:
            sizes = record.lengths
            if len(record.runs) == 1:
                sizes = [len(record.header) + sum(sizes)]
            for run, start, size in zip(record.runs, record.starts, sizes, strict=True):
                own = stretches.setdefault(run["name"], [])
                own += [(start, start + size)] if size else []
        runs = [run for part in self.parts for run in part.directory["objects"]]
        for name, found in stretches.items():
            found.sort()
            must(all(a[1] <= b[0] for a, b in pairwise(found)), f"records of {name} share no bytes")
            n_bytes = {run["bytes"] for run in runs if run["name"] == name}
            unused = max(run.get("unused", 0) for run in runs if run["name"] == name)
            used = sum(stop - start for start, stop in found)
            must(n_bytes == {used + unused}, f"unused bytes of {name}")

    def _check_padding(self, run: dict) -> None:
        """Bytes behind the end of an array are 0 in its last chunk."""
        chunk = run.get("chunk") or 1
        last, used = divmod(run["bytes"], chunk)
        if used:
            padding = self.store.read(f"{run['name']}/c/{last}", used, chunk)
            must(not any(padding), f"zeros behind the end of {run['name']}")


class Part:
    """An index part, section 3. What it cannot read is refused where it is asked for."""

    def __init__(self, dataset: Dataset, entry: dict) -> None:
        self.dataset, self.name, self.n_groups = dataset, entry["name"], dataset.n_groups
        self.n_images, self.n_records = entry["n_images"], entry["n_records"]
        must(1 <= self.n_images <= 65_536, "1 to 65,536 images")
        must(1 <= self.n_records <= self.n_images, "1 to n_images records")
        must(entry["bytes"] < 2**32, "less than 2^32 bytes")
        n_head, checksum = entry["directory"]
        must(12 < n_head <= 8 * MIB, "at most 8 MiB of directory")
        must(entry["bytes"] >= 8 * self.n_groups * self.n_images + n_head, "bytes for the images")
        must(dataset.store.size(self.name) == entry["bytes"], f"length of {self.name}")
        self.data = dataset.store.read(self.name)
        head = self.data[:n_head]
        must(crc(head) == checksum, "checksum of the directory in the manifest")
        must(head[:4] == b"PCRI", "magic of the part")
        must(12 + integer(head, 4) == n_head, "length of the directory")
        must(crc(head[12:]) == integer(head, 8), "checksum of the directory")
        self.directory = strict_json(head[12:])
        has(self.directory, {**DIRECTORY, "objects": list, "blocks": list}, "the directory")
        wanted = [entry["uid"], self.n_groups, self.n_images, self.n_records]
        must([self.directory[name] for name in DIRECTORY] == wanted, "directory as in manifest")
        for run in self.directory["objects"]:
            has(run, RUN, "a run")
            must(UID.fullmatch(run["uid"]), "32 hex digits")
            must(1 <= (run.get("chunk") or 1) <= 2**31, "1 to 2^31 bytes of a chunk")
        self._find_pages(n_head)
        self.column = cache(self._column)
        self.cells = cache(self._cells)

    def _find_pages(self, at: int) -> None:
        """Find where pages of blocks lie, also of those that are not known."""
        self.blocks: dict[tuple[str, str], tuple[dict, list[tuple[int, int, int, int]]]] = {}
        distinct([(b["name"], b["kind"]) for b in self.directory["blocks"]], "names of blocks")
        for block in self.directory["blocks"]:
            has(block, BLOCK, "a block")
            pages = []
            for stored, raw, checksum in block["pages"]:
                pages.append((at, stored, raw, checksum))
                at += stored
            self.blocks[block["kind"], block["name"]] = block, pages
        must(at == len(self.data), "blocks to the end of the part")

    def pages(self, kind: str, name: str) -> Iterator[tuple[int, bytes]]:
        """Rows and raw bytes of the pages of a block."""
        block, pages = self.blocks[kind, name]
        codec, rows, per_page = block["codec"], block["rows"], block["rows_per_page"]
        known(codec in ("none", "zlib"), f"codec {codec} of {name}")
        must(per_page >= 1 and len(pages) == -(-rows // per_page), f"number of pages of {name}")
        n_raw, n_stored = (sum(page[i] for page in pages) for i in (2, 1))
        must(n_raw <= 2**20 + 64 * n_stored, f"raw bytes of {name}")
        must(name != "key" or n_raw <= 2**24, "raw bytes of keys")
        for i, (at, stored, raw, checksum) in enumerate(pages):
            page = self.data[at : at + stored]
            must(crc(page) == checksum, f"checksum of a page of {name}")
            must(raw <= 2**24, f"raw bytes of a page of {name}")
            page = inflated(page, raw, name) if codec == "zlib" else page
            must(len(page) == raw, f"raw length of a page of {name}")
            yield min(per_page, rows - i * per_page), page

    def table(self, name: str, n_rows: int, counts: dict[str, int]) -> dict[str, np.ndarray]:
        """Fields of a table, each rows x count."""
        must(("table", name) in self.blocks, f"table {name}")
        block = self.blocks["table", name][0]
        must(block["rows"] == n_rows, f"rows of {name}")
        fields = {field: count for field, _, count in block["fields"]}
        must(len(fields) == len(block["fields"]), "distinct fields")
        must(all(fields.get(field) == n for field, n in counts.items()), f"fields of {name}")
        types = {kind for _, kind, _ in block["fields"]}
        must(types <= {"|u1", "<u2", "<u4", "<u8"}, f"types of {name}")
        dtype = np.dtype([(field, kind, (n,)) for field, kind, n in block["fields"]])
        found = []
        for n, page in self.pages("table", name):
            must(len(page) == n * dtype.itemsize, f"rows fill a page of {name}")
            found.append(np.frombuffer(page, dtype))
        rows = np.concatenate(found)
        return {field: rows[field] for field in counts}

    def _column(self, name: str) -> list[object]:
        (entry,) = [c for c in self.dataset.manifest["columns"] if c["name"] == name]
        dtype, shape = entry["dtype"], entry["shape"]
        known(dtype in NUMBERS + TEXTS, f"type {dtype} of column {name}")
        must(None not in shape[1:], "null at the head of a shape alone")
        must(len(shape) <= (1 if dtype in TEXTS else 8), "items of a shape")
        if ("column", name) not in self.blocks:
            must(name not in SYSTEM, f"column {name} in every part")
            return [None] * self.n_images
        block = self.blocks["column", name][0]
        must((block["dtype"], block["shape"]) == (dtype, shape), f"{name} as in the manifest")
        must(block["rows"] == self.n_images, f"rows of {name}")
        must(type(block["nulls"]) is bool, "nulls, true or false")
        must(name not in SYSTEM or not block["nulls"], f"{name} has no nulls")
        values: list[object] = []
        for n, page in self.pages("column", name):
            values += page_values(page, n, dtype, shape, nulls=block["nulls"])
        m = self.dataset.manifest
        in_range = {
            "key": lambda v: 1 <= len(v.encode()) <= 1024,
            "label": lambda v: -1 <= v < len(m["classes"]),
            "split": lambda v: v < len(m["splits"]) or v == 255,
            "orientation": lambda v: 1 <= v <= 8,
            "width": lambda v: v <= 65_535,
            "height": lambda v: v <= 65_535,
        }.get(name, lambda _: True)
        must(all(map(in_range, values)), f"range of {name}")
        return values

    @cached_property
    def records(self) -> list[Record]:
        """Records, sections 3.2 and 4.1."""
        g = self.n_groups
        in_object = self.dataset.manifest["layout"] == "record"
        n_runs = 1 if in_object else g + 1
        counts = {"object": n_runs, "ordinal": 1, "n_images": 1, "start": n_runs, "length": g + 1}
        rows = {
            field: values.tolist()
            for field, values in self.table("records", self.n_records, counts).items()
        }
        restore = self.table("restore", self.n_images, {"length": 1, "checksum": 1})
        restore = np.hstack([restore["length"], restore["checksum"]]).astype(np.int64)
        must(("headers", "headers") in self.blocks, "headers")
        block = self.blocks["headers", "headers"][0]
        must(block["rows"] == self.n_records and len(block["pages"]) == 1, "one page of headers")
        known(block["codec"] in ("none", "zlib"), "codec of headers")
        must(block["codec"] == "none", "headers as they are")
        ((_, headers),) = self.pages("headers", "headers")
        objects, image, at, records = self.directory["objects"], 0, 0, []
        for row in range(self.n_records):
            ((n,), (ordinal,)) = rows["n_images"][row], rows["ordinal"][row]
            must(1 <= n <= 65_535 and ordinal < 2**32, "images and ordinal of a record")
            must(max(rows["object"][row]) < len(objects), "runs of a record")
            runs = [objects[i] for i in rows["object"][row]]
            size = 12 + -(-n // 8) + 8 * n * g
            lengths = rows["length"][row]
            must(size + sum(lengths) < 2**32, "a record below 2^32 bytes")
            for i, run in enumerate(runs):
                must(("chunk" not in run) == in_object, "objects or arrays")
                stop = rows["start"][row][i] + (size + sum(lengths) if in_object else lengths[i])
                must(stop <= run["bytes"], "a record inside its run")
            header = headers[at : at + size]
            starts, blobs = rows["start"][row], restore[image : image + n]
            records.append(Record(runs, ordinal, image, n, starts, lengths, header, blobs))
            image, at = image + n, at + size
        must(image == self.n_images and at == len(headers), "records fill the part")
        return records

    def image(self, image: int) -> tuple[int, list[bytes]]:
        """Format of an image, and its cells and restore blob, section 4."""
        form = int(self.column("format")[image])
        known(form in (0, 1, 2), f"format {form}")
        r = bisect_right([record.first_image for record in self.records], image) - 1
        opaque, cells = self.cells(r)
        own = image - self.records[r].first_image
        size = [int(self.column(name)[image]) for name in ("width", "height")]
        must(opaque[own] == (form == 1), "opaque in header and column")
        if form == 1:
            must(not any(cells[own][1:]), "an opaque image is cell 1")
        must(size == [0, 0] if form == 1 else min(size) >= 1, "width and height")
        return form, cells[own]

    def _cells(self, r: int) -> tuple[list[bool], list[list[bytes]]]:
        """Images that are opaque and cells of images of a record, with their restore blobs."""
        record = self.records[r]
        seed = crc(bytes.fromhex(record.runs[0]["uid"]) + record.ordinal.to_bytes(8, "little"))
        opaque, sizes, checksums = parse_header(record.header, seed)
        must(sizes.shape == (record.n_images, self.n_groups), "images and groups of a header")
        sizes = np.hstack([sizes, record.restore[:, :1]])
        must(sizes.sum(axis=0).tolist() == record.lengths, "cells fill regions")
        checksums = np.hstack([checksums, record.restore[:, 1:]])
        if self.dataset.manifest["layout"] == "record":
            (run,), (start,) = record.runs, record.starts
            must(self.dataset.store.size(run["name"]) == run["bytes"], "length of an object")
            stop = start + len(record.header) + sum(record.lengths)
            data = self.dataset.store.read(run["name"], start, stop)
            must(data.startswith(record.header), "header in object as in index")
            edges = np.cumsum([len(record.header), *record.lengths])
            regions = [data[a:b] for a, b in pairwise(edges)]
        else:
            places = zip(record.runs, record.starts, record.lengths, strict=True)
            regions = [self._stretch(*place) for place in places]
        return opaque, cells_of(regions, sizes, checksums, seed)

    def _stretch(self, run: dict, start: int, length: int) -> bytes:
        """Bytes of an array, section 3.1."""
        size, pieces, stop = run["chunk"], [], start + length
        must(-(-stop // size) - start // size <= 4096, "at most 4,096 chunks of a region")
        while start < stop:
            chunk, at = divmod(start, size)
            name, n = f"{run['name']}/c/{chunk}", min(size - at, stop - start)
            must(self.dataset.store.size(name) == size, f"length of {name}")
            pieces.append(self.dataset.store.read(name, at, at + n))
            start += n
        return b"".join(pieces)


def page_values(page: bytes, n: int, dtype: str, shape: list, *, nulls: bool) -> list[object]:
    """Values of a page of a column, section 3.4; None is null."""
    at = 0

    def take(count: int, kind: str) -> np.ndarray:
        nonlocal at
        must(at + count * np.dtype(kind).itemsize <= len(page), "a page as long as its values")
        found = np.frombuffer(page, kind, count, at)
        at += found.nbytes
        return found

    there = np.ones(n, bool)
    if nulls:
        bits = np.unpackbits(take(-(-n // 8), "|u1"), bitorder="little").astype(bool)
        there = bits[:n]
    ragged = bool(shape) and shape[0] is None
    rows = take(n, "<u4").astype(np.int64) if ragged else np.ones(n, np.int64)
    inner = shape[1:] if ragged else shape
    edges = np.cumsum(np.concatenate([[0], rows * int(np.prod(inner, dtype=np.int64))])).tolist()
    if dtype in NUMBERS:
        items = take(edges[-1], dtype)
        must(dtype != "|b1" or items.view(np.uint8).max(initial=0) <= 1, "a boolean is 0 or 1")
    else:
        ends = np.cumsum([at + 4 * edges[-1], *take(edges[-1], "<u4").tolist()]).tolist()
        must(ends[-1] <= len(page), "a page as long as its values")
        items = [text(page[a:b], dtype) for a, b in pairwise(ends)]
        at = ends[-1]
    must(at == len(page), "values fill their page")
    values: list[object] = []
    for i, (start, stop) in enumerate(pairwise(edges)):
        own = items[start:stop]
        if not there[i]:
            must(not np.any(own) if dtype in NUMBERS else not any(own), "a null value is of zeros")
            must(not ragged or rows[i] == 0, "a null value has no rows")
            values.append(None)
        elif dtype in NUMBERS:
            values.append(own.reshape(([int(rows[i])] if ragged else []) + inner)[()])
        else:
            values.append(nested(own, ([int(rows[i])] if ragged else []) + inner))
    return values


def text(data: bytes, dtype: str) -> str | bytes:
    """An item of a column of utf8, json (its text) or bytes."""
    if dtype == "bytes":
        return data
    try:
        if dtype == "json" and data:
            json.loads(data)
        return data.decode()
    except ValueError as error:
        raise DamagedError(f"{dtype}: {error}") from error


def nested(items: list, shape: list[int]) -> object:
    """Items in C order as lists of lists."""
    if not shape:
        return items[0]
    step = len(items) // shape[0] if shape[0] else 0
    return [nested(items[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def parse_header(header: bytes, seed: int) -> tuple[list[bool], np.ndarray, np.ndarray]:
    """Opaque images, and lengths and checksums of cells, sections 4.1 and 4.2."""
    must(header[:4] == b"PCR1", "magic of a record")
    must(crc(header[8:]) ^ seed == integer(header, 4), "checksum of a header")
    known(header[11] == 0, f"flags {header[11]} of a record")
    n, g = integer(header, 8, 2), header[10]
    n_bits = -(-n // 8)
    must(n >= 1 and len(header) == 12 + n_bits + 8 * n * g, "length of a header")
    bits = np.unpackbits(np.frombuffer(header, np.uint8, n_bits, 12), bitorder="little")
    must(not bits[n:].any(), "bits of no image are 0")
    tables = np.frombuffer(header, "<u4", 2 * n * g, 12 + n_bits).astype(np.int64)
    return (bits[:n] == 1).tolist(), *tables.reshape(2, n, g)


def cells_of(
    regions: Sequence[bytes], sizes: np.ndarray, checksums: np.ndarray, seed: int
) -> list[list[bytes]]:
    """Cells of each image, checked as section 4.3 says."""
    cells: list[list[bytes]] = [[] for _ in sizes]
    for g, region in enumerate(regions):
        at = 0
        for i, (size, checksum) in enumerate(zip(sizes[:, g], checksums[:, g], strict=True)):
            cell = region[at : at + int(size)]
            mix = (seed + i * 0x9E3779B1 + g * 0x85EBCA6B) % 2**32
            must(crc(cell) ^ mix == checksum, f"checksum of cell ({i}, {g})")
            cells[i].append(cell)
            at += int(size)
    return cells


def recovered(data: bytes) -> Iterator[list[bytes]]:
    """Files at full fidelity of an object that has lost its index, section 4.2, by record."""
    at = data.find(b"PCR1")
    while at >= 0:
        n, g = integer(data, at + 8, 2), data[at + 10]
        stop = at + 12 + -(-n // 8) + 8 * n * g
        header = data[at:stop]
        opaque, sizes, checksums = parse_header(header, crc(header[8:]) ^ integer(header, 4))
        regions = []
        for length in sizes.sum(axis=0).tolist():
            regions.append(data[stop : stop + length])
            stop += length
        cells = cells_of(regions, sizes, checksums, crc(header[8:]) ^ integer(header, 4))
        yield [file_of(own, g, opaque=o) for own, o in zip(cells, opaque, strict=True)]
        at = data.find(b"PCR1", stop)


def file_of(cells: list[bytes], fidelity: int, *, opaque: bool) -> bytes:
    """The file of cells at a fidelity, section 4.4."""
    if opaque:
        return cells[0]
    if fidelity < len(cells) or len(cells) == 1:
        return b"".join(cells[:fidelity]) + EOI
    first, last = leading(cells[0], 2), leading(cells[-1], 0)
    head = [cells[0][:first], cells[-1][:last], cells[0][first:]]
    return b"".join([*head, *cells[1:-1], cells[-1][last:], EOI])


def leading(cell: bytes, at: int) -> int:
    """Where the run of APPn and COM segments that begins at `at` ends."""
    while cell[at : at + 1] == b"\xff" and (cell[at + 1] & 0xF0 == 0xE0 or cell[at + 1] == 0xFE):
        at = behind(cell, at)
    return at


def behind(data: bytes, at: int) -> int:
    """Where a marker segment that begins at `at` ends."""
    must(at + 4 <= len(data) and data[at] == 0xFF, "a marker segment")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def to_scan(data: bytes, at: int) -> int:
    """Where the next scan header begins."""
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        must(data[at : at + 1] == b"\xff" and data[at + 1] != 0xD9, "a scan header")
        if data[at + 1] == 0xDA:
            return at
        at = behind(data, at)


def restored(cells: list[bytes], blob: bytes) -> bytes:
    """The source file of cells and a restore blob, section 4.5."""
    must(len(blob) >= 5, "a restore blob")
    kind, deflated = blob[0] & 15, bool(blob[0] & 128)
    known(kind <= 2 and not blob[0] & 0x70, f"kind or flag {blob[0]} of a restore blob")
    head, segments = blob[5:], []
    if kind == 2:
        size = integer(blob, 5)
        head, rest = blob[9 : 9 + size], blob[9 + size :]
        n = integer(rest, 0)
        must(len(rest) >= 4 + 4 * n, "lengths of segments")
        at = 4 + 4 * n
        for length in np.frombuffer(rest, "<u4", n, 4).tolist():
            segments.append(rest[at : at + length])
            at += length
        must(at == len(rest), "segments fill a blob")
    if deflated:
        dictionary = cells[0][: to_scan(cells[0], 2)] + K33
        head = inflated(head, 64 * MIB + 4096, "a head", -15, dictionary)
    file = skeleton = without_runs(head, cells)
    if kind == 1:
        segments = recode(skeleton, file_of(cells, len(cells), opaque=False))
    if kind != 0:
        file = woven(skeleton, segments)
    must(crc(file) == integer(blob, 1), "checksum of a source file")
    return file


def without_runs(head: bytes, cells: list[bytes]) -> bytes:
    """A head's bytes with segments of the last cell in the place of runs."""
    must(head, "number of runs")
    must(len(head) >= 1 + 8 * head[0], "runs")
    runs = np.frombuffer(head, "<u4", 2 * head[0], 1).reshape(-1, 2).tolist()
    rest = head[1 + 8 * head[0] :]
    pieces, done, taken = [], 0, 0
    for offset, length in runs:
        pieces += [rest[done:offset], cells[-1][taken : taken + length]]
        done, taken = offset, taken + length
    must(not runs or taken <= leading(cells[-1], 0), "runs are segments of the last cell")
    return b"".join([*pieces, rest[done:]])


def woven(skeleton: bytes, segments: Sequence[bytes]) -> bytes:
    """The file of a skeleton and its entropy-coded segments."""
    pieces, done = [], 2
    pieces.append(skeleton[:2])
    for segment in segments:
        at = behind(skeleton, to_scan(skeleton, done))
        pieces += [skeleton[done:at], segment]
        done = at
    return b"".join([*pieces, skeleton[done:]])


ZARR_TYPES = {"uint8": "|u1", "uint32": "<u4", "uint64": "<u8", "int64": "<i8"}


class Group:
    """The Zarr group of a conversion, section 5: attributes and side arrays."""

    def __init__(self, dataset: Dataset, conversion: str) -> None:
        self.dataset, self.name = dataset, f"zarr/{conversion}"
        root = dataset.checked("zarr.json")
        must(root == b'{"attributes":{},"node_type":"group","zarr_format":3}', "the root group")
        meta = strict_json(dataset.checked(f"{self.name}/zarr.json"))
        must((meta["zarr_format"], meta["node_type"]) == (3, "group"), "a Zarr v3 group")
        self.attributes = meta["attributes"]
        groups = dataset.manifest["groups"]
        must(self.attributes["pcrstore"] == {"conversion": conversion, "groups": groups}, "groups")
        self.consolidated = meta["consolidated_metadata"]["metadata"]
        g = dataset.n_groups
        n = self.metadata("labels")["shape"][0]
        r = self.metadata("record_first_image")["shape"][0] - 1
        regions = [*(f"group_{i + 1}" for i in range(g)), "restore"]
        self.tables = {  # type, shape, names of dimensions
            **{name: ("uint8", [None], [f"{name}_byte"]) for name in regions},
            "record_first_image": ("uint64", [r + 1], ["record_edge"]),
            "image_offsets": ("uint64", [n + 1, g + 1], ["image_edge", "region"]),
            "image_checksums": ("uint32", [n, g], ["image", "group"]),
            "opaque": ("uint8", [n], ["image"]),
            "labels": ("int64", [n], ["image"]),
            "key_bytes": ("uint8", [None], ["key_byte"]),
            "key_offsets": ("uint64", [n + 1], ["image_edge"]),
        }
        for name, (dtype, shape, names) in self.tables.items():
            meta = self.metadata(name)
            must(meta == self.consolidated[name], f"consolidated metadata of {name}")
            must(meta["data_type"] == dtype, f"type of {name}")
            must(len(meta["shape"]) == len(shape), f"axes of {name}")
            must(all(w in (None, s) for w, s in zip(shape, meta["shape"], strict=True)), name)
            must(meta["dimension_names"] == names, f"dimensions of {name}")
            must(self.chunk(name)[1:] == meta["shape"][1:], f"only the first axis: {name}")
            must(meta["shape"][0] > 0 or self.chunk(name) == [1], f"an empty array: {name}")
            must(meta["fill_value"] == 0, f"fill value of {name}")
            separator = meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
            must(meta["chunk_key_encoding"]["name"] == "default" and separator == "/", name)
            (codec,) = meta["codecs"]
            endian = codec.get("configuration", {}).get("endian", "little")
            must(codec["name"] == "bytes" and endian == "little", f"codec of {name}")

    def metadata(self, name: str) -> dict:
        return strict_json(self.dataset.checked(f"{self.name}/{name}/zarr.json"))

    def chunk(self, name: str) -> list[int]:
        return self.metadata(name)["chunk_grid"]["configuration"]["chunk_shape"]

    def array(self, name: str) -> np.ndarray:
        """A side array."""
        shape = self.metadata(name)["shape"]
        dtype, tail = np.dtype(ZARR_TYPES[self.tables[name][0]]), [0] * (len(shape) - 1)
        n_chunks = -(-shape[0] // self.chunk(name)[0])
        keys = ["/".join(map(str, ["c", i, *tail])) for i in range(n_chunks)]
        chunks = [self.dataset.checked(f"{self.name}/{name}/{key}") for key in keys]
        array = np.frombuffer(b"".join(chunks), dtype)
        must(array.size == n_chunks * int(np.prod(self.chunk(name))), f"whole chunks of {name}")
        return array.reshape(-1, *shape[1:])[: shape[0]]
