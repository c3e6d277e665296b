"""Bounds of FORMAT.md that conversion keeps."""

import pytest
from jpeg_files import has_transcoder
from small_sources import encoded, write_sources

import pcrstore

pytestmark = pytest.mark.skipif(not has_transcoder(), reason="the C extension is not built")


@pytest.mark.parametrize("n", [255, 256, 257])
def test_a_dataset_has_at_most_255_splits(tmp_path, n):
    data = encoded(1, (8, 8), "L")
    write_sources(tmp_path / "src", {f"s{i:03}/c/a.jpg": data for i in range(n)})
    options = pcrstore.Options(split_dirs=True)
    if n > 255:
        with pytest.raises(pcrstore.OptionError, match="at most 255 split folders"):
            pcrstore.convert(str(tmp_path / "src"), str(tmp_path / "ds"), options, workers=1)
        return
    pcrstore.convert(str(tmp_path / "src"), str(tmp_path / "ds"), options, workers=1)
    ds = pcrstore.open(str(tmp_path / "ds"))
    splits = ds.manifest.splits
    assert [splits[s] for s in ds.column("split")] == [k.split("/")[0] for k in ds.keys]
