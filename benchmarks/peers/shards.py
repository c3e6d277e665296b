"""Write the same images as shards of each peer, and longer data sets out of links to shards.

    python -m benchmarks.peers.shards '{"images": DIR, "bucket": DIR, "shard_bytes": N}'

Runs in the peers' environment. `base-NAME` holds every image once. An epoch of n shards is a folder
`NAME-n` whose shards are hard links to those of the base, again and again under other names, so
that an epoch of half a minute costs neither disk nor page cache.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PEERS: Final = ("mds", "webdataset", "litdata")
LITDATA_FOLDERS: Final = ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER")
"""LitData empties these when it optimises; by default they are in the temporary directory."""


def sources(images: Path) -> list[tuple[str, Path, int]]:
    """Return (key, file, class id) of each image."""
    files = sorted(p for p in images.rglob("*") if p.is_file())
    ids = {name: i for i, name in enumerate(sorted({p.parent.name for p in files}))}
    return [(f"{i:06d}", path, ids[path.parent.name]) for i, path in enumerate(files)]


def write_mds(rows: Sequence[tuple[str, Path, int]], target: Path, shard_bytes: int) -> None:
    """Write MDS shards."""
    from benchmarks.peers.driver_mds import import_streaming  # noqa: PLC0415 - optional

    writer = import_streaming().MDSWriter
    columns = {"jpg": "bytes", "cls": "int"}
    with writer(out=str(target), columns=columns, size_limit=shard_bytes) as out:
        for _key, path, label in rows:
            out.write({"jpg": path.read_bytes(), "cls": label})


def write_webdataset(rows: Sequence[tuple[str, Path, int]], target: Path, shard_bytes: int) -> None:
    """Write tar shards."""
    import webdataset as wds  # noqa: PLC0415 - optional

    target.mkdir(parents=True)
    pattern = f"{target}/shard-%06d.tar"
    with wds.ShardWriter(pattern, maxsize=shard_bytes, maxcount=10**9, verbose=0) as out:
        for key, path, label in rows:
            out.write({"__key__": key, "jpg": path.read_bytes(), "cls": str(label).encode()})


def read_row(row: tuple[str, Path, int]) -> dict[str, object]:
    """Return what LitData is to store of an image."""
    _key, path, label = row
    return {"jpg": path.read_bytes(), "cls": label}


def write_litdata(rows: Sequence[tuple[str, Path, int]], target: Path, shard_bytes: int) -> None:
    """Write LitData's chunks."""
    import litdata  # noqa: PLC0415 - optional

    litdata.optimize(
        fn=read_row,
        inputs=list(rows),
        output_dir=str(target),
        chunk_bytes=shard_bytes,
        num_workers=1,
        verbose=False,
    )


def write(images: Path, bucket: Path, shard_bytes: int) -> None:
    """Write the base of every peer that is not there yet."""
    missing = [name for name in LITDATA_FOLDERS if not os.environ.get(name)]
    if missing:
        raise SystemExit(f"LitData empties its folders: set {' and '.join(missing)} first")
    rows = sources(images)
    # Shuffled before packing, as each peer's documentation asks for: the folders are sorted.
    rows.sort(key=lambda row: (hash_of(row[0]), row[0]))
    writers = {"mds": write_mds, "webdataset": write_webdataset, "litdata": write_litdata}
    for name, writer in writers.items():
        target = bucket / f"base-{name}"
        if not (target / "done").exists():
            writer(rows, target, shard_bytes)
            (target / "done").write_text(str(len(rows)))


def hash_of(key: str) -> int:
    """Return a number that puts keys in a fixed random order."""
    return int(key) * 2654435761 % 2**32


def view(bucket: Path, name: str, n_images: int) -> tuple[str, int, int]:
    """Return the folder, images and shards of a data set of about `n_images`, made of links.

    It has whole shards, an even number of them, as two workers of WebDataset split shards.
    """
    base = bucket / f"base-{name}"
    n_base = int((base / "done").read_text())
    shards = {
        "mds": mds_shards, "webdataset": webdataset_shards, "litdata": litdata_shards
    }[name](base)  # fmt: skip
    n = max(2, 2 * math.ceil(n_images / n_base * len(shards) / 2))
    target = bucket / f"{name}-{n}"
    target.mkdir(exist_ok=True)
    count = 0
    entries = []
    for i in range(n):
        shard, size, entry = shards[i % len(shards)]
        linked = f"{i:06d}{shard.suffix}" if name != "webdataset" else f"shard-{i:06d}.tar"
        if not (target / linked).exists():
            os.link(shard, target / linked)
        count += size
        entries.append(renamed(entry, linked))
    if name != "webdataset":
        index = json.loads((base / "index.json").read_text())
        index["shards" if name == "mds" else "chunks"] = entries
        (target / "index.json").write_text(json.dumps(index))
    return target.name, count, n


def renamed(entry: dict[str, object], name: str) -> dict[str, object]:
    """Return an entry of an index for the same shard under another name."""
    if "filename" in entry:
        return {**entry, "filename": name}
    raw = entry.get("raw_data")
    return {**entry, "raw_data": {**raw, "basename": name}} if isinstance(raw, dict) else entry


Shards = list[tuple[Path, int, dict[str, object]]]


def mds_shards(base: Path) -> Shards:
    """Return file, images and index entry of each shard."""
    found = json.loads((base / "index.json").read_text())["shards"]
    return [(base / s["raw_data"]["basename"], s["samples"], s) for s in found]


def litdata_shards(base: Path) -> Shards:
    """Return file, images and index entry of each chunk."""
    found = json.loads((base / "index.json").read_text())["chunks"]
    return [(base / c["filename"], c["chunk_size"], c) for c in found]


def webdataset_shards(base: Path) -> Shards:
    """Return file and images of each shard."""
    import tarfile  # noqa: PLC0415 - of this format alone

    out: Shards = []
    for path in sorted(base.glob("shard-*.tar")):
        with tarfile.open(path) as tar:
            out.append((path, sum(m.name.endswith(".jpg") for m in tar), {}))
    return out


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    write(Path(asked["images"]), Path(asked["bucket"]), asked["shard_bytes"])
