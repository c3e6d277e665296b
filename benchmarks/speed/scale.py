"""A growing dataset: what opening it, reading a share of it and committing to it cost.

    python -m benchmarks scale

Datasets are made up: manifests and index parts by the package's own encoders, images of a few
bytes, stored only where they are read. Needs no data.

- 1.28 M images in 40,000 records: opening makes at most 3 requests and takes under a second.
- 10^6 records (32 M images): opening and loading every record table takes at most 3 s and 300 MB.
- A reader of 1/64 of an epoch reads only its share of the index: requests and bytes, counted at an
  S3 server on the loopback.
- Committing one more part costs the same whatever is there already, but for the manifest, which
  grows by about 200 bytes a part.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace

import pcrstore
from benchmarks.data import fresh
from benchmarks.measuring import timed
from benchmarks.needs import OBSTORE, S3FS
from benchmarks.results import Report
from benchmarks.server.base import BUCKET
from benchmarks.server.counting import CountingS3
from pcrstore.core import UID_BYTES, crc32c, record_seed
from pcrstore.dataset import commit
from pcrstore.format import (
    COLUMNS,
    RESTORE_DTYPE,
    Manifest,
    PartEntry,
    RecordImage,
    Rows,
    Run,
    ScriptEntry,
    Totals,
    Values,
    build_record,
    encode_manifest,
    manifest_name,
    record_dtype,
)
from pcrstore.format.record import header_size
from pcrstore.jpeg import builtin
from pcrstore.storage import open_store
from pcrstore.testing import RecordingStore

NEEDS: Final = (OBSTORE, S3FS)
N_GROUPS: Final = 5
PER_RECORD: Final = 32
PER_OBJECT: Final = 32
PER_PART: Final = 2048
"""Records: 65,536 images."""
CELLS: Final = (40, 60, 100, 200, 100)
RESTORE_LENGTH: Final = 4
HEADER: Final = header_size(PER_RECORD, N_GROUPS)
RECORD: Final = HEADER + PER_RECORD * (sum(CELLS) + RESTORE_LENGTH)
N_CLASSES: Final = 1000
SHARES: Final = 64

LOAD: Final = """
import json, sys, time
import pcrstore
from pathlib import Path
from pcrstore.dataset import IndexReader
from pcrstore.cost import DEFAULT_COST
from pcrstore.storage import open_store
def peak():  # of this program alone: ru_maxrss remembers the process that forked it
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024
before = peak()
start = time.perf_counter()
ds = pcrstore.open(sys.argv[1])
opened = time.perf_counter()
index = IndexReader(open_store(sys.argv[1]), ds.manifest, DEFAULT_COST)
parts = index.parts(range(len(ds.manifest.parts)))
done = time.perf_counter()
print(json.dumps({
    "open": opened - start, "load": done - opened, "rows": sum(len(p.records) for p in parts),
    "rss": peak(), "import_rss": before, "requests": index.counter.n_requests,
    "bytes": index.counter.n_bytes,
}))
"""


def uid_of(what: str) -> str:
    """Return a unique id."""
    return hashlib.blake2b(what.encode(), digest_size=UID_BYTES).hexdigest()


def object_of(number: int) -> Run:
    """Return the run of bytes that an object is."""
    name = f"objects/made-up-{number:06d}.pcr"
    return Run(name=name, uid=uid_of(name), n_bytes=PER_OBJECT * RECORD)


def record_of(number: int) -> bytes:
    """Return a record's bytes: images of random bytes, under their right checksums."""
    random = np.random.default_rng(number)
    images = [
        RecordImage(
            groups=tuple(random.bytes(n) for n in CELLS),
            restore=random.bytes(RESTORE_LENGTH),
            opaque=False,
        )
        for _ in range(PER_RECORD)
    ]
    uid = bytes.fromhex(object_of(number // PER_OBJECT).uid)
    seed = record_seed(uid, number % PER_OBJECT)
    header, regions = build_record(images, seed=seed)
    return header.encode() + b"".join(regions)


def rows_of(first: int, n: int) -> Rows:
    """Return the index rows of records `first` to `first + n`."""
    records = np.zeros(n, record_dtype("record", N_GROUPS))
    numbers = np.arange(first, first + n)
    records["object"][:, 0] = numbers // PER_OBJECT - first // PER_OBJECT
    records["ordinal"] = numbers % PER_OBJECT
    records["n_images"] = PER_RECORD
    records["start"][:, 0] = numbers % PER_OBJECT * RECORD
    records["length"] = [PER_RECORD * n for n in (*CELLS, RESTORE_LENGTH)]
    images = np.arange(first * PER_RECORD, (first + n) * PER_RECORD)
    restore = np.zeros(len(images), RESTORE_DTYPE)
    restore["length"] = RESTORE_LENGTH
    random = np.random.default_rng(first)
    columns: dict[str, Values] = {
        "key": [f"n{i % N_CLASSES:08d}/n{i % N_CLASSES:08d}_{i * 7919 % 99991}" for i in images],
        "label": (images % N_CLASSES).astype("<i4"),
        "source_sha256": random.integers(0, 256, (len(images), 32)).astype(np.uint8),
        "source_bytes": random.integers(50_000, 150_000, len(images)).astype("<u8"),
        "width": random.integers(200, 600, len(images)).astype("<u4"),
        "height": random.integers(200, 600, len(images)).astype("<u4"),
        "orientation": np.ones(len(images), np.uint8),
        "format": np.zeros(len(images), np.uint8),
        "split": np.full(len(images), 255, np.uint8),
    }
    headers = [random.bytes(HEADER) for _ in range(n)]
    return Rows(records=records, headers=headers, restore=restore, columns=columns)


def part_of(number: int, n: int) -> tuple[PartEntry, bytes]:
    """Return index part `number`, of `n` records."""
    first = number * PER_PART
    objects = sorted({r // PER_OBJECT for r in range(first, first + n)})
    return rows_of(first, n).encode(
        name=f"index/made-up-{number:06d}.pcri",
        uid=uid_of(f"part {number}"),
        n_groups=N_GROUPS,
        runs=[object_of(o) for o in objects],
        columns=COLUMNS,
    )


def renumbered(entry: PartEntry, data: bytes, number: int) -> tuple[PartEntry, bytes]:
    """Return a part and its head, under another number: the same rows, named and bound anew."""
    text = json.loads(data[12 : entry.head.n_bytes])
    name = f"index/made-up-{number:06d}.pcri"
    text["uid"] = uid_of(f"part {number}")
    body = json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
    head = data[:4] + len(body).to_bytes(4, "little") + crc32c(body).to_bytes(4, "little") + body
    if len(head) != entry.head.n_bytes:
        raise AssertionError("a uid changes no length")
    new = replace(
        entry,
        name=name,
        uid=uid_of(f"part {number}"),
        head=replace(entry.head, checksum=crc32c(head)),
    )
    return new, head


def manifest_of(parts: list[PartEntry], version: int = 1) -> Manifest:
    """Return a manifest of these parts."""
    n = sum(p.n_images for p in parts)
    script = builtin("sa5")
    return Manifest(
        format="pcrstore",
        features=(),
        write_features=(),
        uid=uid_of("dataset"),
        version=version,
        layout="record",
        script=ScriptEntry(name=script.name, text=script.text),
        group_labels=script.labels,
        n_images=n,
        n_records=sum(p.n_records for p in parts),
        totals=Totals(sources=n, groups=tuple(n * c for c in CELLS), headers=n, restore=n),
        classes=tuple(f"n{i:08d}" for i in range(N_CLASSES)),
        splits=(),
        columns=COLUMNS,
        parts=tuple(parts),
        checked=(),
        conversions=(),
        writer="scale",
        created="2026-01-01T00:00:00+00:00",
    )


def write(folder: Path, n_records: int, shares: int) -> Manifest:
    """Write a dataset: all of its index, and the records of the middle one of `shares`."""
    store = open_store(str(folder))
    parts: list[PartEntry] = []
    for number, first in enumerate(range(0, n_records, PER_PART)):
        entry, data = part_of(number, min(PER_PART, n_records - first))
        store.put(entry.name, data)
        parts.append(entry)
    middle = shares // 2
    start, stop = n_records * middle // shares, n_records * (middle + 1) // shares
    for o in range(start // PER_OBJECT, -(-stop // PER_OBJECT)):
        records = range(o * PER_OBJECT, (o + 1) * PER_OBJECT)
        store.put(object_of(o).name, b"".join(record_of(r) for r in records))
    manifest = manifest_of(parts)
    commit(store, manifest)
    return manifest


def write_huge(folder: Path, n_records: int) -> None:
    """Write manifest, directories and record tables; the rest of each part is a hole."""
    full, body = part_of(0, PER_PART)
    last, last_body = part_of(0, n_records % PER_PART or PER_PART)
    (folder / "index").mkdir(parents=True)
    parts: list[PartEntry] = []
    for number, first in enumerate(range(0, n_records, PER_PART)):
        is_last = n_records - first < PER_PART
        entry, data = (last, last_body) if is_last else (full, body)
        entry, head = renumbered(entry, data, number)
        row = record_dtype("record", N_GROUPS).itemsize
        with (folder / entry.name).open("wb") as f:
            f.write(head)
            f.write(data[len(head) : len(head) + entry.n_records * row])
            f.truncate(entry.n_bytes)
        parts.append(entry)
    commit(open_store(str(folder)), manifest_of(parts))


def opening(report: Report, server: CountingS3, url: str) -> None:
    """Open a dataset of 1.28 M images a few times with each engine."""
    for engine in ("fsspec", "obstore"):
        seconds = []
        for _ in range(7):
            server.clear()
            took, ds = timed(pcrstore.open, url, server.options, engine=engine)
            seconds.append(took)
        n, size = server.of()
        title = f"open {len(ds)} images in {ds.n_records} records, {engine}"
        report.add(f"{title}: requests", n, at_most=3, detail=f"{size} bytes")
        report.add(f"{title}: time", seconds, "s", at_most=1)


def sharing(report: Report, server: CountingS3, url: str, manifest: Manifest) -> None:
    """Read 1/64 of an epoch and count what of the index that took."""
    total = sum(p.n_bytes for p in manifest.parts)
    middle = SHARES // 2
    n = manifest.n_records
    for engine in ("fsspec", "obstore"):
        ds = pcrstore.open(url, server.options, engine=engine)
        server.clear()
        start, stop = n * middle // SHARES, n * (middle + 1) // SHARES
        samples = ds.iter(2, start=start, stop=stop)
        took, got = timed(lambda it: sum(1 for _ in it), samples)
        index, data = server.of("index"), server.of("objects")
        title = f"1/{SHARES} of an epoch, {engine}"
        wanted = (stop - start) * PER_RECORD
        report.add(f"{title}: images", got, at_least=wanted, at_most=wanted)
        report.add(
            f"{title}: share of the index that is read", index[1] / total, at_most=1 / SHARES,
            detail=f"{index[0]} requests, {index[1]} bytes",
        )  # fmt: skip
        report.add(f"{title}: data", data[1], "B", detail=f"{data[0]} requests")
        report.add(f"{title}: time", took, "s")


def loading(report: Report, folder: Path) -> None:
    """Open 10^6 records and load all their tables, in processes of their own."""
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    title = "open and load the tables of 1,000,000 records"
    rows = runs[0]["rows"]
    report.add(f"{title}: records", rows, at_least=1_000_000, at_most=1_000_000)
    report.add(f"{title}: time", [r["open"] + r["load"] for r in runs], "s", at_most=3)
    report.add(f"{title}: requests", runs[0]["requests"], detail=f"{runs[0]['bytes']} bytes")
    report.add(
        f"{title}: peak RSS", max(r["rss"] for r in runs), "B", at_most=300e6,
        detail=f"imports are {runs[0]['import_rss'] / 1e6:.0f} MB of it",
    )  # fmt: skip


def committing(report: Report, work: Path) -> None:
    """Commit one more part onto datasets of 1, 20 and 500 parts."""
    full, body = part_of(0, PER_PART)
    costs = {}
    for n in (1, 20, 500):
        folder = fresh(work / "commit")
        parts = [renumbered(full, body, i)[0] for i in range(n)]
        store = RecordingStore(open_store(str(folder)))
        commit(store, manifest_of(parts))
        entry, head = renumbered(full, body, n)
        store.clear()
        store.put(entry.name, head + body[len(head) :])
        seconds, _ = timed(commit, store, manifest_of([*parts, entry], version=2))
        size = sum(r.n_bytes for r in store.requests)
        own = sum(r.n_bytes for r in store.requests if r.name == manifest_name(2))
        costs[n] = (len(store.requests), size - own, own)
        print(f"part {n + 1}: {[r.op for r in store.requests]}, {seconds:.3f} s")
        fresh(folder)
    per_part = (costs[500][2] - costs[20][2]) / 480
    one = len(encode_manifest(manifest_of([full])))
    report.add("manifest of one part", one, "B")
    report.add("manifest, growth by a part", per_part, "B", at_most=300)
    report.add(
        "different costs of one more part onto 1, 20 and 500, but for the manifest",
        len({c[:2] for c in costs.values()}), at_most=1,
        detail=f"requests and bytes {[c[:2] for c in costs.values()]}",
    )  # fmt: skip


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(args: argparse.Namespace, report: Report) -> None:
    """Run everything."""
    work = args.work / "scale"
    manifest = write(fresh(work) / "epoch", 40_000, SHARES)
    with CountingS3(work) as server:
        opening(report, server, f"s3://{BUCKET}/epoch")
        sharing(report, server, f"s3://{BUCKET}/epoch", manifest)
    write_huge(work / "huge", 1_000_000)
    loading(report, work / "huge")
    committing(report, work)
    fresh(work)
