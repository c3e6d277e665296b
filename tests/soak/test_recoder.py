"""Originals need no library: whole sets come back by the rules of the page, in plain Python."""

import pytest
import recoder
from jpeg_files import has_transcoder, sample_files

from pcrstore.jpeg.markers import EOI
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.restore import Kind, split_ecs
from pcrstore.jpeg.scan_script import DEFAULT
from pcrstore.jpeg.transcoder import transcode

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not has_transcoder(), reason="the C transcoder is not built (setup.py)"),
]

SETS = {"imagenet-sample": 250, "clothing-small": 300}
"""Images of each set, spread evenly over it."""


@pytest.mark.parametrize(("folder", "n"), SETS.items(), ids=SETS)
def test_segments_of_real_photos_come_back(folder, n, scaled):
    files = sample_files(folder, "*.[jJ]*")  # .jpg or .JPEG
    lost = []
    for path in files[:: len(files) // scaled(n)]:
        data = path.read_bytes()
        done = transcode(data, DEFAULT)
        assert done.kind == Kind.RECODED, path.name
        skeleton, segments = split_ecs(data, parse(data))
        if recoder.recode(skeleton, b"".join(done.groups) + EOI) != list(segments):
            lost.append(path.name)
    assert lost == []
