"""JPEG files of every kind, made here, and jpegtran as an oracle."""

import io
import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from pcrstore.errors import MissingDependencyError
from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.scan_script import ScanSpec
from pcrstore.jpeg.transcoder import require

JPEGTRAN, CJPEG = shutil.which("jpegtran"), shutil.which("cjpeg")

needs_jpegtran = pytest.mark.skipif(
    JPEGTRAN is None, reason="jpegtran (libjpeg-turbo-progs) is not installed"
)

KINDS = ["grey", "444", "422", "420", "440", "411", "rgb", "cmyk", "ycck"]
"""Every colour model, and for YCbCr every sampling that cameras and encoders use."""

SAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2), "411": (4, 1)}


def has_transcoder():
    """True where the C transcoder was built."""
    try:
        require()
    except MissingDependencyError:
        return False
    return True


def picture(height, width, channels, seed=0):
    """A photo's stand-in: gradients, an edge and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        100 + 60 * np.sin(x / (9 + 4 * c) + c) + 50 * np.cos(y / (13 - 2 * c)) + 40 * (x > 2 * y)
        for c in range(channels)
    ]
    noisy = np.stack(planes, -1) + rng.normal(0, 6, (height, width, channels))
    return noisy.clip(0, 255).astype(np.uint8)


@cache
def make(kind, height=75, width=101, *, progressive=False, quality=88):
    """A JPEG of one of KINDS, by Pillow; 440, 411 and YCCK by an edit of a file that it writes."""
    out = io.BytesIO()
    channels = {"grey": 1, "cmyk": 4, "ycck": 4}.get(kind, 3)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    samples = picture(height, width, channels)
    image = Image.fromarray(samples[..., 0] if channels == 1 else samples, mode)
    options = {"quality": quality, "progressive": progressive}
    if kind == "rgb":
        options["keep_rgb"] = True
    if kind in ("444", "422", "420"):
        options["subsampling"] = f"4:{kind[1]}:{kind[2]}"
    if kind in ("440", "411"):
        return _by_cjpeg(image, *SAMPLING[kind], progressive=progressive, quality=quality)
    image.save(out, "JPEG", **options)
    data = out.getvalue()
    if kind == "ycck":  # the Adobe transform is the segment's last byte: 0 CMYK, 2 YCCK
        at = data.index(b"Adobe") + 11
        data = data[:at] + b"\x02" + data[at + 1 :]
    return data


@st.composite
def damaged(draw, side):
    """A JPEG of `side` x `side` in which a few bytes were changed."""
    kind, progressive = draw(st.sampled_from(["420", "grey", "cmyk"])), draw(st.booleans())
    edits = st.lists(st.tuples(st.integers(2, 4000), st.integers(0, 255)), min_size=1, max_size=5)
    data = bytearray(make(kind, side, side, progressive=progressive))
    for at, value in draw(edits):
        data[at % len(data)] = value
    return bytes(data)


def sampled(h, v, *, progressive=False):
    """A JPEG in colour whose luma is sampled h x v times as often as its chroma, by cjpeg."""
    image = Image.fromarray(picture(75, 101, 3))
    return _by_cjpeg(image, h, v, progressive=progressive, quality=88)


def _by_cjpeg(image, h, v, *, progressive, quality):
    if CJPEG is None:
        pytest.skip("cjpeg (libjpeg-turbo-progs) is not installed")
    ppm = io.BytesIO()
    image.save(ppm, "PPM")
    command = [CJPEG, "-sample", f"{h}x{v}", "-quality", str(quality), "-optimize"]
    command += ["-progressive"] if progressive else []
    return subprocess.run(command, input=ppm.getvalue(), capture_output=True, check=True).stdout


def jpegtran(data, *arguments):
    """What jpegtran makes of `data`; any warning fails the test."""
    run = subprocess.run([JPEGTRAN, *arguments], input=data, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


def with_scans(data, specs: tuple[ScanSpec, ...], folder: Path):
    """`data` transcoded to `specs` by jpegtran."""
    path = folder / "scans.txt"
    path.write_text(
        "".join(
            f"{','.join(map(str, s.components))}: {s.ss}-{s.se}, {s.ah}, {s.al};\n" for s in specs
        )
    )
    return jpegtran(data, "-scans", str(path))


def segment(marker, body=b""):
    """A marker segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def sof(
    components=((1, 0x11, 0),), *, marker=0xC0, precision=8, height=8, width=8, n_components=None
):
    """A frame header of (id, sampling, table) components."""
    n = len(components) if n_components is None else n_components
    return segment(
        marker,
        struct.pack(">BHHB", precision, height, width, n) + bytes(b for c in components for b in c),
    )


def sos(ids=(1,), *, ss=0, se=63, a=0, n_components=None):
    """A scan header."""
    n = len(ids) if n_components is None else n_components
    return segment(0xDA, bytes([n, *(b for i in ids for b in (i, 0)), ss, se, a]))


def tiny(*before, frame=None, scans=None, after=EOI):
    """A file whose markers are right and whose entropy-coded bytes mean nothing."""
    body = b"".join(before) + (sof() if frame is None else frame)
    return SOI + body + (sos() + b"\x12\x34" if scans is None else scans) + after


JFIF = segment(0xE0, b"JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x00\x00")


def adobe(transform):
    """An Adobe APP14 segment."""
    return segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00" + bytes([transform]))


def sample_files(folder, pattern, n=None):
    """Files of the real test data, or a skip that says how to get them."""
    root = os.environ.get("PCRSTORE_TEST_DATA")
    if not root:
        pytest.skip("PCRSTORE_TEST_DATA is not set to a folder of real JPEGs")
    return sorted(path for path in Path(root, folder).rglob(pattern) if path.is_file())[:n]
