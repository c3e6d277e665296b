"""Images for the demo: a share of a folder, or photos of scikit-image and generated images."""

import contextlib
import io
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcrstore.errors import MissingDependencyError, NotFoundError, OptionError, StoreError

__all__ = ["MAX_IMAGES", "copy_images", "make_images", "writing"]

MAX_IMAGES: Final = 300
"""Largest number of images: more would take more than a minute on two cores."""

_N_GENERATED: Final = 24
_QUALITY: Final = 92
_PHOTOS: Final[Mapping[str, tuple[str, ...]]] = {
    "animals": ("chelsea.png",),
    "medicine": ("ihc.png", "retina.jpg"),
    "objects": ("coffee.png", "coins.png", "motorcycle_left.png", "motorcycle_right.png"),
    "people": ("astronaut.png", "camera.png"),
    "space": ("hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
    "textures": ("brick.png", "grass.png", "gravel.png"),
}
"""Photos inside the scikit-image wheel, by class. Its other images are drawings, or downloads."""

_SUFFIXES: Final = (".jpg", ".jpeg", ".jpe", ".jfif")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write a file or folder into an error that names it."""
    try:
        yield
    except OSError as e:
        raise StoreError(f"{path}: cannot be written: {e.strerror or e}") from e


def copy_images(folder: Path, into: Path, *, max_images: int = MAX_IMAGES) -> str:
    """Copy the JPEG files of a folder, or an even share of them; return a description of them.

    Raises:
        NotFoundError: There is no such folder.
        OptionError: There is no JPEG file in it.
        StoreError: A file cannot be written.
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in _SUFFIXES and p.is_file() and not _is_hidden(p, folder)
    )
    if not found:
        raise OptionError(f"{folder}: expected JPEG files, found none")
    n = min(len(found), max_images)
    taken = [found[i * len(found) // n] for i in range(n)]
    for path in taken:
        target = into / path.relative_to(folder)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    few = f"{n} of the {len(found)}" if n < len(found) else f"the {n}"
    return f"{few} JPEG files in {folder}"


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def make_images(into: Path) -> str:
    """Write photos of scikit-image and generated images; return a description of them.

    Raises:
        MissingDependencyError: This scikit-image has no photos in it.
        StoreError: A file cannot be written.
    """
    n_photos, n_encoded = 0, 0
    spec = find_spec("skimage")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    for label, names in _PHOTOS.items():
        for name in names:
            path = next((p for r in roots if (p := Path(r) / "data" / name).is_file()), None)
            if path is None:
                continue
            data = path.read_bytes()
            if path.suffix == ".png":
                with Image.open(path) as image:
                    data = _jpeg(np.asarray(image.convert("L" if image.mode == "L" else "RGB")))
                n_encoded += 1
            _put(into / label / f"{path.stem}.jpg", data)
            n_photos += 1
    if not n_photos:
        raise MissingDependencyError(
            "this scikit-image has no photos in it; name a folder of your own, or "
            "pip install 'pcrstore[demo]'"
        )
    for i in range(_N_GENERATED):
        _put(into / "generated" / f"{i:02d}.jpg", _jpeg(_generate(i)))
    return (
        f"{n_photos} photos that come with scikit-image ({n_encoded} of them PNG, saved as JPEG "
        f"q{_QUALITY}) and {_N_GENERATED} generated images (smooth noise and discs, drawn by NumPy)"
    )


def _put(path: Path, data: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _generate(seed: int) -> NDArray[np.uint8]:
    """Return a picture, (H, W, 3), with slow colour, fine grain and sharp edges."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(200, 360, 2))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = rng.uniform(0.005, 0.03, (3, 2))
    phases = rng.uniform(0, 6.3, 3)
    slow = np.stack(
        [np.sin(a * x + b * y + p) for (a, b), p in zip(waves, phases, strict=True)], -1
    )
    out = 128 + 70 * slow + rng.normal(0, 6, (height, width, 1))
    for _ in range(int(rng.integers(3, 8))):
        cx, cy, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 60)
        out[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return np.clip(out, 0, 255).astype(np.uint8)
