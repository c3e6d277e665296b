"""Show what pcrstore does, on this machine alone and in seconds.

    photos ──convert──▶ s3://demo (moto, in this process) ──range reads──▶ table, contact sheet,
                                                                          one original

Everything is real but the cloud: the same code, HTTP and range requests as with a bucket elsewhere.
"""

import contextlib
import hashlib
import io
import logging
import os
import secrets
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcrstore.conversion import Options, Report, convert
from pcrstore.cost import CostModel, Link, Prices
from pcrstore.dataset import Dataset, open_dataset
from pcrstore.errors import (
    DatasetExistsError,
    MissingDependencyError,
    NotFoundError,
    OptionError,
    StoreError,
)
from pcrstore.preview import Row, contact_sheet
from pcrstore.storage import open_store

__all__ = ["DemoReport", "Epoch", "run_demo"]

_MAX_IMAGES: Final = 300
"""Of a folder that the user names: more would take more than a minute on two cores."""

_N_GENERATED: Final = 24
_QUALITY: Final = 92
_SHEET_ROWS: Final = 4
_RECORD_BYTES: Final = 512 * 1024
"""Smaller than the default, so that the few images of a demo make several records."""

_LOOPBACK: Final = CostModel(
    prices=Prices(name="loopback", per_get=0.0, per_byte=0.0, source="this machine"),
    link=Link(bandwidth=1e9, per_connection=1e9, latency=5e-4, concurrency=16),
    per_second=1.0,
)

_PHOTOS: Final[Mapping[str, tuple[str, ...]]] = {
    "animals": ("chelsea.png",),
    "medicine": ("ihc.png", "retina.jpg"),
    "objects": ("coffee.png", "coins.png", "motorcycle_left.png", "motorcycle_right.png"),
    "people": ("astronaut.png", "camera.png"),
    "space": ("hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
    "textures": ("brick.png", "grass.png", "gravel.png"),
}
"""Photos inside the scikit-image wheel, by class. Its other images are drawings or are fetched."""

_SUFFIXES: Final = (".jpg", ".jpeg", ".jpe", ".jfif")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What reading every image once took at one fidelity."""

    fidelity: int
    label: str
    n_bytes: int
    n_requests: int
    index_bytes: int
    index_requests: int
    of_full: float
    """Bytes as a share of those at full fidelity."""
    ms_ssim: float | None
    seconds: float
    images_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo did."""

    images: str
    """Where the images come from, in words."""
    conversion: Report
    epochs: tuple[Epoch, ...]
    original_key: str
    original_bytes: int
    original_sha256: str
    """Of the file that the dataset gave back, which is the source file's too."""
    sheet: str
    """Path of the contact sheet."""


def run_demo(
    folder: str | None = None,
    *,
    output: str | None = None,
    keep: str | None = None,
    say: Say = lambda _: None,
) -> DemoReport:
    """Convert some images into a bucket in this process and read them back.

    Args:
        folder: Images, as for `convert`, on a local disk; None: photos of scikit-image and some
            generated images.
        output: Where the contact sheet goes; None: into `keep`, or a temporary file.
        keep: A new or empty folder for the images and the dataset; None: they are deleted.
        say: Told what happens.

    Raises:
        MissingDependencyError: The extra `demo` is not installed.
        OptionError: No JPEG in the folder.
        DatasetExistsError: `keep` holds something.
        StoreError: A file cannot be written.
    """
    _require(photos=folder is None)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(_workspace(keep))
        photos = work / "photos"
        described = _take(Path(folder), photos) if folder is not None else _make(photos)
        say(f"images: {described}")
        sheet = stack.enter_context(_sheet(output, keep))
        url, options = stack.enter_context(_bucket())
        say(f"bucket: {url} at {options['endpoint_url']} (moto, in this process)")
        n_files = sum(p.is_file() for p in photos.rglob("*"))
        report = convert(
            str(photos),
            url,
            Options(policy="skip", record_bytes=_RECORD_BYTES),
            workers=1 if n_files < 100 else None,
            destination_options=options,
        )
        say(
            f"converted {report.n_images} images in {report.seconds:.1f} s to "
            f"{report.n_records} records"
            + (f"; {len(report.problems)} files skipped" if report.problems else "")
        )
        epochs = _read_epochs(url, options)
        ds = open_dataset(url, options, cost=_LOOPBACK)
        _draw(ds, sheet)
        key, data = _one_original(ds, photos)
        if keep is not None:
            _save(url, options, work / "dataset")
        return DemoReport(
            images=described,
            conversion=report,
            epochs=epochs,
            original_key=key,
            original_bytes=len(data),
            original_sha256=hashlib.sha256(data).hexdigest(),
            sheet=str(sheet),
        )


def _require(*, photos: bool) -> None:
    wanted = ("moto", "flask", "skimage") if photos else ("moto", "flask")
    missing = [name for name in wanted if find_spec(name) is None]
    if find_spec("s3fs") is None and find_spec("obstore") is None:
        missing.append("s3fs")
    if missing:
        raise MissingDependencyError(
            f"the demo needs {', '.join(missing)}: pip install 'pcrstore[demo]'"
        )


@contextlib.contextmanager
def _workspace(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="pcrstore-demo-") as folder:
            yield Path(folder)
        return
    root = Path(keep)
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise DatasetExistsError(f"{root}: expected an empty folder, got one with files in it")
    yield root


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except DatasetExistsError:
        raise
    except OSError as e:
        raise StoreError(f"{path}: cannot be written: {e.strerror or e}") from e


@contextlib.contextmanager
def _sheet(output: str | None, keep: str | None) -> Iterator[Path]:
    """Give where the sheet will go, as a file: what cannot be written is better known at once."""
    if output is None and keep is None:
        handle, name = tempfile.mkstemp(prefix="pcrstore-demo-", suffix=".png")
        os.close(handle)
        path = Path(name)
    else:
        path = Path(output) if output is not None else Path(str(keep)) / "sheet.png"
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise OptionError(f"output must end in .png, .jpg or .webp, got {path.name!r}")
        with _writing(path), path.open("ab"):
            pass
    try:
        yield path
    finally:
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def _take(folder: Path, into: Path) -> str:
    """Copy JPEGs of a folder, evenly spread over it when they are many; say what was taken."""
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in _SUFFIXES and p.is_file() and not _is_hidden(p, folder)
    )
    if not found:
        raise OptionError(f"{folder}: expected JPEG files, found none")
    n = min(len(found), _MAX_IMAGES)
    taken = [found[i * len(found) // n] for i in range(n)]
    for path in taken:
        target = into / path.relative_to(folder)
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    few = f"{n} of the {len(found)}" if n < len(found) else f"the {n}"
    return f"{few} JPEG files in {folder}"


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _make(into: Path) -> str:
    """Write the built-in images; say what they are."""
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
    with _writing(path):
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


@contextlib.contextmanager
def _bucket() -> Iterator[tuple[str, dict[str, object]]]:
    """Serve an empty bucket on the loopback interface; give a URL in it, and its options."""
    with _quiet(), _environment():
        server = import_module("moto.server").ThreadedMotoServer(
            ip_address="127.0.0.1", port=0, verbose=False
        )
        server.start()
        try:
            host, port = server.get_host_and_port()
            endpoint = f"http://{host}:{port}"
            # moto keeps the buckets of all its servers in one place, as long as the process lives.
            bucket = f"demo-{secrets.token_hex(4)}"
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            made = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")  # noqa: S310 - ours
            direct.open(made, timeout=20).close()
            url = f"s3://{bucket}/photos"
            options: dict[str, object] = {
                "key": "demo",
                "secret": "demo",
                "endpoint_url": endpoint,
                "client_kwargs": {"region_name": "us-east-1"},
            }
            yield url, options
            store = open_store(url, options)
            store.delete([entry.name for entry in store.list("")])
        finally:
            server.stop()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the web server from logging every request."""
    logs = [logging.getLogger(name) for name in ("werkzeug", "moto")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Let no account, profile or proxy of the user's reach the demo."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        NO_PROXY="127.0.0.1",
        no_proxy="127.0.0.1",
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _read_epochs(url: str, options: Mapping[str, object]) -> tuple[Epoch, ...]:
    """Read everything once at each fidelity, each time as a reader that knows nothing yet."""
    epochs: list[Epoch] = []
    for k in range(open_dataset(url, options).n_groups, 0, -1):
        ds = open_dataset(url, options, cost=_LOOPBACK)
        m = ds.manifest
        started = time.perf_counter()
        n_images = sum(1 for _ in ds.iter(k))
        seconds = time.perf_counter() - started
        traffic = ds.traffic
        full = epochs[0].n_bytes if epochs else traffic.data_bytes
        epochs.append(
            Epoch(
                fidelity=k,
                label=m.group_labels[k - 1],
                n_bytes=traffic.data_bytes,
                n_requests=traffic.data_requests,
                index_bytes=traffic.index_bytes,
                index_requests=traffic.index_requests,
                of_full=traffic.data_bytes / full,
                ms_ssim=m.quality.ms_ssim[k - 1] if m.quality.n_images else None,
                seconds=seconds,
                images_per_second=n_images / seconds,
            )
        )
    return tuple(reversed(epochs))


def _chosen(ds: Dataset) -> Sequence[int]:
    """Return images for the sheet: of different classes, generated ones last."""
    first: dict[int, int] = {}
    for i, label in enumerate(ds.labels.tolist()):
        first.setdefault(label, i)
    names = {i: ds.classes[label] if label >= 0 else "" for label, i in first.items()}
    return sorted(names, key=lambda i: (names[i] == "generated", names[i]))[:_SHEET_ROWS]


def _draw(ds: Dataset, path: Path) -> None:
    m = ds.manifest
    fidelities = range(1, ds.n_groups + 1)
    rows = []
    for i in _chosen(ds):
        files = ds.fetch([i] * ds.n_groups, list(fidelities))
        pixels = ds.read([i] * ds.n_groups, list(fidelities))
        rows.append(
            Row(
                title=f"{ds.column('key', [i])[0]}",
                pixels=tuple(pixels),
                captions=tuple(
                    f"{len(f) / 1000:.1f} kB, {len(f) / len(files[-1]):.0%} of full" for f in files
                ),
            )
        )
    titles = [
        f"fidelity {k}: {m.group_labels[k - 1]}"
        + (f", MS-SSIM {m.quality.ms_ssim[k - 1]:.3f}" if m.quality.n_images else "")
        for k in fidelities
    ]
    with _writing(path):
        contact_sheet(titles, rows).save(path)


def _one_original(ds: Dataset, photos: Path) -> tuple[str, bytes]:
    """Have one source file back, and compare it with the one on disk."""
    index = _chosen(ds)[0]
    key = str(ds.column("key", [index])[0])
    data = ds.fetch([index], "original")[0]
    if data != (photos / key).read_bytes():
        raise AssertionError(f"the original of {key} did not come back: a bug in pcrstore")
    return key, data


def _save(url: str, options: Mapping[str, object], folder: Path) -> None:
    bucket, disk = open_store(url, options), open_store(str(folder))
    for entry in bucket.list(""):
        disk.put(entry.name, bucket.get(entry.name))
