"""A folder of small source files of every kind that the format has a case for."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from pcrstore.conversion.options import Options

EXIF = (
    b"Exif\x00\x00" + b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
)
"""Orientation 6: turn by 90 degrees."""


def pixels(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """Smooth noise, the same on every machine: integer arithmetic alone."""
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), channels), dtype=np.uint8)
    fine = rng.integers(0, 24, (height, width, channels), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width] // 8 * 7 + fine


def encoded(seed: int, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    """A picture as a file; a JPEG unless `format` says otherwise."""
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    array = pixels(seed, size[1], size[0], channels)
    image = Image.fromarray(array[..., 0] if channels == 1 else array)
    if mode == "CMYK":
        image = Image.frombytes("CMYK", size, array.tobytes())
    out = io.BytesIO()
    image.save(out, **{"format": "JPEG", "quality": 85, **options})
    return out.getvalue()


def sources() -> dict[str, bytes]:
    """Files by path: two splits, two classes, every kind of image and of restore blob."""
    colour = encoded(1, (48, 32), subsampling=2)
    return {
        "train/cat/colour.jpg": colour,
        "train/cat/exif.jpg": encoded(2, (33, 17), exif=EXIF, comment=b"made by a test"),
        "train/cat/grey.jpg": encoded(3, (40, 24), "L"),
        "train/cat/progressive.jpg": encoded(4, (24, 40), progressive=True),
        "train/dog/cmyk.jpg": encoded(5, (16, 16), "CMYK"),
        "train/dog/optimised.jpg": encoded(6, (31, 29), optimize=True, subsampling=0),
        "train/dog/picture.png": encoded(7, (20, 30), format="PNG"),
        # Bytes after EOI; a second picture inside; entropy-coded bytes of another encoder.
        "train/dog/trailing.jpg": encoded(8, (16, 24)) + b"\x00trailing\xff\xd8bytes",
        "val/cat/restarts.jpg": encoded(9, (48, 48), restart_marker_rows=1),
        "val/cat/h\u00e4nde.jpg": encoded(10, (17, 33), icc_profile=b"profile" * 40),
        "val/dog/odd-padding.jpg": repadded(encoded(11, (24, 24))),
        "val/dog/single.jpg": encoded(12, (1, 1), "L"),
    }


def repadded(data: bytes) -> bytes:
    """The same picture whose last entropy-coded byte is padded with another bit pattern."""
    last = data[-3]
    flipped = last ^ 1 if last & 1 else last | 1
    return data[:-3] + bytes([flipped]) + data[-2:]


def broken() -> bytes:
    """A JPEG cut short, kept as an opaque file by policies that keep it."""
    return encoded(13, (32, 32))[:-200]


def write_sources(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def small_options(layout: str, policy: str, **changes: object) -> Options:
    """Options that make several records, objects and chunks of a few files."""
    return Options(
        **{
            "layout": layout,
            "policy": policy,
            "record_images": 4,
            "object_bytes": 6000,
            "chunk_bytes": 1000,
            "split_dirs": True,
            **changes,
        }
    )
