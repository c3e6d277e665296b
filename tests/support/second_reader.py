"""A second reader of the format, written from FORMAT.md alone.

It imports the standard library, numpy and google_crc32c and nothing of pcrstore: what it cannot
do from the page, the page lacks. Local folders only; the plainest way, one record at a time.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

EOI = b"\xff\xd9"
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


class RefusedError(ValueError):
    """The dataset breaks a rule of the page."""


def must(holds: object, rule: str) -> None:
    if not holds:
        raise RefusedError(rule)


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def strict_json(data: bytes) -> dict[str, object]:
    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        must(len({name for name, _ in found}) == len(found), "no repeated keys")
        return dict(found)

    value = json.loads(data.decode(), object_pairs_hook=pairs)
    must(isinstance(value, dict), "an object at the top")
    return value


class Dataset:
    """The newest version of the dataset in a folder: every value of it, in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = sorted(
            path.name
            for path in (root / "manifests").iterdir()
            if re.fullmatch(r"[0-9a-f]{8}\.pcrm", path.name)
        )
        self.version = 2**32 - 1 - int(names[0][:8], 16)
        self.manifest = self._manifest((root / "manifests" / names[0]).read_bytes())
        m = self.manifest
        self.n_groups = len(m["groups"])
        self.columns: dict[str, list[object]] = {c["name"]: [] for c in m["columns"]}
        self.cells: list[list[bytes]] = []
        self.restore: list[bytes] = []
        for entry in m["checked"]:
            data = (root / entry["name"]).read_bytes()
            must(len(data) == entry["bytes"], f"length of {entry['name']}")
            must(crc(data) == int(entry["crc32c"], 16), f"checksum of {entry['name']}")
        for part in m["parts"]:
            self._part(part)
        must(len(self.cells) == m["n_images"], "n_images")

    def _manifest(self, data: bytes) -> dict:
        line, _, body = data.partition(b"\n")
        found = re.fullmatch(
            rb"pcrstore-manifest v([0-9]+) crc32c=([0-9a-f]{8}) bytes=(0|[1-9][0-9]*)", line
        )
        must(found, "first line of the manifest")
        must(int(found[1]) == 1, "version 1 of the format")
        must(len(body) == int(found[3]), "length of the manifest")
        must(crc(body) == int(found[2], 16), "checksum of the manifest")
        manifest = strict_json(body)
        must(manifest["format"] == "pcrstore", "format")
        must(manifest["features"] == [], "features")
        must(manifest["version"] == self.version, "version is that of the name")
        return manifest

    def _part(self, part: dict) -> None:
        data = (self.root / part["name"]).read_bytes()
        n_head, checksum = part["directory"]
        must(len(data) == part["bytes"], "length of the part")
        must(crc(data[:n_head]) == checksum, "checksum of the directory")
        must(data[:4] == b"PCRI", "magic of the part")
        n = int.from_bytes(data[4:8], "little")
        must(n_head == 12 + n, "length of the directory")
        must(crc(data[12:n_head]) == int.from_bytes(data[8:12], "little"), "directory's CRC32C")
        directory = strict_json(data[12:n_head])
        must(directory["uid"] == part["uid"], "uid of the part")
        must(directory["layout"] == self.manifest["layout"], "layout of the part")
        must(directory["n_groups"] == self.n_groups, "groups of the part")
        must(directory["n_images"] == part["images"], "images of the part")
        must(directory["n_records"] == part["records"], "records of the part")

        at, blocks = n_head, {}
        for block in directory["blocks"]:
            pages = []
            for stored, raw, page_crc in block["pages"]:
                page = data[at : at + stored]
                must(len(page) == stored and crc(page) == page_crc, "checksum of a page")
                at += stored
                if block["packed"]:
                    unzip = zlib.decompressobj()
                    page = unzip.decompress(page, raw + 1)
                must(len(page) == raw, "raw length of a page")
                pages.append(page)
            blocks[block["name"]] = self._values(block, pages)
        must(at == len(data), "blocks to the end of the part")
        for name, values in self.columns.items():
            must(len(blocks[name]) == part["images"], f"values of {name}")
            values.extend(blocks[name])
        self._records(directory, blocks)

    def _values(self, block: dict, pages: list[bytes]) -> object:
        if block["kind"] == "headers":
            return b"".join(pages)
        per_page, values = block["rows_per_page"], []
        for i, page in enumerate(pages):
            n = min(per_page, block["rows"] - i * per_page)
            if block["kind"] == "utf8":
                lengths = np.frombuffer(page, "<u4", n)
                at = 4 * n
                for length in lengths.tolist():
                    values.append(page[at : at + length].decode("utf-8", "surrogateescape"))
                    at += length
                must(at == len(page), "strings fill their page")
            else:
                dtype = np.dtype([(f, t, (c,)) for f, t, c in block["row"]])
                must(len(page) == n * dtype.itemsize, "rows fill their page")
                rows = np.frombuffer(page, dtype)
                if len(block["row"]) == 1:  # a column: its values
                    rows = rows[rows.dtype.names[0]]
                    rows = rows[:, 0] if rows.shape[1] == 1 else rows
                values.extend(rows)
        return values

    def _records(self, directory: dict, blocks: dict) -> None:
        image = header_at = 0
        for row in blocks["records"]:
            n, g = int(row["n_images"][0]), self.n_groups
            size = 12 + -(-n // 8) + 8 * n * g
            header = blocks["headers"][header_at : header_at + size]
            header_at += size
            target = directory["objects"][int(row["object"][0])]
            uid, ordinal = bytes.fromhex(target["uid"]), int(row["ordinal"][0])
            seed = crc(uid + ordinal.to_bytes(8, "little"))
            opaque, lengths, checksums = self._header(header, n, seed)
            regions = self._regions(target, row, header)
            blobs = np.array(blocks["restore"][image : image + n])
            for group, region in enumerate(regions):
                sizes = lengths[:, group] if group < g else blobs["length"][:, 0]
                sums = checksums[:, group] if group < g else blobs["checksum"][:, 0]
                must(int(sizes.sum()) == len(region), "cells fill their region")
                at = 0
                for i in range(n):
                    cell = region[at : at + int(sizes[i])]
                    at += int(sizes[i])
                    mix = (seed + i * 0x9E3779B1 + group * 0x85EBCA6B) % 2**32
                    must(crc(cell) ^ mix == sums[i], f"checksum of cell ({i}, {group})")
                    if group == 0:
                        self.cells.append([])
                    (self.cells[image + i] if group < g else self.restore).append(cell)
            formats = self.columns["format"][len(self.cells) - n : len(self.cells)]
            must([f == 1 for f in formats] == opaque.tolist(), "opaque in header and column")
            image += n
        must(header_at == len(blocks["headers"]), "headers fill their block")

    def _header(self, header: bytes, n: int, seed: int) -> tuple:
        must(header[:4] == b"PCR1", "magic of the record")
        stored = int.from_bytes(header[4:8], "little")
        must(crc(header[8:]) ^ seed == stored, "checksum of the header")
        must(int.from_bytes(header[8:10], "little") == n, "images of the header")
        must(header[10] == self.n_groups, "groups of the header")
        must(header[11] == 0, "flags of the header")
        n_bits, n_cells = -(-n // 8), n * self.n_groups
        bits = np.frombuffer(header, np.uint8, n_bits, 12)
        opaque = np.unpackbits(bits, bitorder="little")[:n].astype(bool)
        tables = np.frombuffer(header, "<u4", 2 * n_cells, 12 + n_bits)
        return opaque, *tables.reshape(2, n, self.n_groups)

    def _regions(self, target: dict, row: np.void, header: bytes) -> list[bytes]:
        lengths = [int(v) for v in row["length"]]
        if self.manifest["layout"] == "record":
            data = (self.root / target["name"]).read_bytes()
            must(len(data) == target["bytes"], "length of the object")
            at = int(row["start"][0])
            must(data[at : at + len(header)] == header, "header in the object as in the index")
            at += len(header)
            regions = []
            for length in lengths:
                regions.append(data[at : at + length])
                at += length
            return regions
        arrays = [f"group_{g + 1}" for g in range(self.n_groups)] + ["restore"]
        return [
            b"".join(self._chunked(target["name"], array, size, int(start), int(start) + length))
            for array, size, start, length in zip(
                arrays, self.manifest["chunk_bytes"], row["start"], lengths, strict=True
            )
        ]

    def _chunked(self, group: str, array: str, size: int, start: int, stop: int) -> list[bytes]:
        pieces = []
        while start < stop:
            chunk, at = divmod(start, size)
            data = (self.root / group / array / "c" / str(chunk)).read_bytes()
            n = min(size - at, stop - start)
            pieces.append(data[at : at + n])
            start += n
        return pieces

    def __len__(self) -> int:
        return len(self.cells)

    def jpeg(self, image: int, fidelity: int) -> bytes:
        """The file of an image at a fidelity, as section 4.4 says."""
        cells = self.cells[image]
        if self.columns["format"][image] == 1:
            return cells[0]
        if fidelity < self.n_groups or self.n_groups == 1:
            return b"".join(cells[:fidelity]) + EOI
        last = leading(cells[-1], 0)
        first = leading(cells[0], 2)
        return b"".join(
            [
                cells[0][:first],
                cells[-1][:last],
                cells[0][first:],
                *cells[1:-1],
                cells[-1][last:],
                EOI,
            ]
        )

    def original(
        self, image: int, recode: Callable[[bytes], Sequence[bytes]] | None = None
    ) -> bytes:
        """The source file; `recode` makes the entropy-coded segments of a skeleton (kind 1)."""
        cells, blob = self.cells[image], self.restore[image]
        if self.columns["format"][image] == 1:
            return cells[0]
        kind, deflated = blob[0] & 15, bool(blob[0] & 128)
        must(blob[0] & 0x70 == 0 and kind <= 2, "first byte of a restore blob")
        body, segments = blob[5:], []
        if kind == 2:
            n_head = int.from_bytes(body[:4], "little")
            body, at = body[4 : 4 + n_head], 4 + n_head + 5
            rest = blob[at:]
            n = int.from_bytes(rest[:4], "little")
            at = 4 + 4 * n
            for length in np.frombuffer(rest, "<u4", n, 4).tolist():
                segments.append(rest[at : at + length])
                at += length
            must(at == len(rest), "segments fill the blob")
        if deflated:
            zdict = cells[0][: leading(cells[0], 2, tables=True)] + K33
            unzip = zlib.decompressobj(-15, zdict=zdict)
            body = unzip.decompress(body) + unzip.flush()
        skeleton = self._unrun(body, cells)
        if kind == 0:
            file = skeleton
        else:
            if kind == 1:
                must(recode is not None, "kind 1 needs an encoder")
                segments = list(recode(skeleton))
            file = weave(skeleton, segments)
        must(crc(file) == int.from_bytes(blob[1:5], "little"), "CRC32C of the source file")
        return file

    def _unrun(self, head: bytes, cells: list[bytes]) -> bytes:
        n_runs = head[0]
        runs = np.frombuffer(head, "<u4", 2 * n_runs, 1).reshape(-1, 2).tolist()
        rest = head[1 + 8 * n_runs :]
        pieces, done, taken = [], 0, 0
        for offset, length in runs:
            pieces += [rest[done:offset], cells[-1][taken : taken + length]]
            done, taken = offset, taken + length
        must(taken <= leading(cells[-1], 0), "runs lie in the leading segments of the last cell")
        return b"".join([*pieces, rest[done:]])


def leading(cell: bytes, at: int, *, tables: bool = False) -> int:
    """Where the run of APPn and COM segments from `at` ends; of DQT, DHT, DRI, SOF too."""
    wanted = {*range(0xE0, 0xF0), 0xFE}
    if tables:
        wanted |= {0xDB, 0xC4, 0xDD, *range(0xC0, 0xD0)} - {0xC8, 0xCC}
    while at + 4 <= len(cell) and cell[at] == 0xFF and cell[at + 1] in wanted:
        at += 2 + int.from_bytes(cell[at + 2 : at + 4], "big")
    return at


def weave(skeleton: bytes, segments: Sequence[bytes]) -> bytes:
    """The file of a skeleton and its entropy-coded segments, section 4.5."""
    pieces, done, at = [], 0, 2
    for segment in segments:
        while True:
            while skeleton[at + 1] == 0xFF:  # fill bytes
                at += 1
            marker = skeleton[at + 1]
            must(skeleton[at] == 0xFF and marker != 0xD9, "a scan header for each segment")
            at += 2 + int.from_bytes(skeleton[at + 2 : at + 4], "big")
            if marker == 0xDA:
                break
        pieces += [skeleton[done:at], segment]
        done = at
    return b"".join([*pieces, skeleton[done:]])
