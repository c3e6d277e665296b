"""Images of the demo are a share of a folder, or made."""

import pytest
from small_sources import encoded, write_sources

from pcrstore.demo.images import copy_images
from pcrstore.errors import NotFoundError, OptionError


@pytest.fixture
def photos(tmp_path):
    files = {f"{c}/{i}.jpg": encoded(i, (40, 30)) for i, c in enumerate(["cat", "dog"] * 3)}
    return write_sources(tmp_path / "photos", {**files, ".hidden/7.jpg": b"x", "notes.txt": b"x"})


@pytest.mark.parametrize(
    ("max_images", "said", "taken"),
    [
        (9, "the 6", ["cat/0", "cat/2", "cat/4", "dog/1", "dog/3", "dog/5"]),
        (6, "the 6", ["cat/0", "cat/2", "cat/4", "dog/1", "dog/3", "dog/5"]),
        (3, "3 of the 6", ["cat/0", "cat/4", "dog/3"]),
        (1, "1 of the 6", ["cat/0"]),
    ],
)
def test_of_a_large_folder_an_even_share_is_taken(photos, tmp_path, max_images, said, taken):
    described = copy_images(photos, tmp_path / "out", max_images=max_images)
    assert described == f"{said} JPEG files in {photos}"
    copied = sorted(
        p.relative_to(tmp_path / "out").with_suffix("").as_posix()
        for p in (tmp_path / "out").rglob("*.jpg")
    )
    assert copied == taken


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(NotFoundError):
        copy_images(tmp_path / "none", tmp_path / "out")
    with pytest.raises(OptionError, match="found none"):
        copy_images(tmp_path, tmp_path / "out")
