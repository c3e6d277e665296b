"""Write tests/fixtures: a small dataset of format version 1 in each layout.

    python tests/make_fixtures.py

They stand for datasets that users have. Run this for a new format version alone: what is stored
there of an older one must stay readable as it is.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from small_sources import broken, small_options, sources, write_sources

import pcrstore

FIXTURES = Path(__file__).parents[1] / "fixtures"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    files = sources()
    kept = [
        "colour",
        "exif",
        "grey",
        "progressive",
        "cmyk",
        "picture",
        "trailing",
        "restarts",
        "odd",
    ]
    files = {k: v for k, v in files.items() if any(word in k for word in kept)}
    files["train/cat/broken.jpg"] = broken()
    for layout in ("record", "zarr"):
        target = FIXTURES / f"v1-{layout}"
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            src = write_sources(Path(folder), files)
            for path in src.rglob("*"):
                os.utime(path, (1_600_000_000, 1_600_000_000))
            options = small_options(layout, "opaque", chunk_bytes=2500)
            pcrstore.convert(folder, str(target), options, workers=1)
        shutil.rmtree(target / "staging", ignore_errors=True)
        ds = pcrstore.open(str(target))
        pinned = {
            key: [
                digest(ds.fetch([i], fidelity=k)[0])
                for k in [*range(1, ds.n_groups + 1), "original"]
            ]
            for i, key in enumerate(ds.keys)
        }
        (FIXTURES / f"v1-{layout}.json").write_text(json.dumps(pinned, indent=1) + "\n")


if __name__ == "__main__":
    main()
