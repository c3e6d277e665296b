"""The demo: convert images into a bucket, read them at every fidelity, get one original back.

    images ──convert──▶ s3://demo (moto, in this process) ──range reads──▶ table, contact sheet,
                                                                          one original

Everything is real but the cloud: the same code, HTTP and range requests as with a bucket elsewhere.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pcrstore.conversion import Options, Report, convert
from pcrstore.cost import CostModel, Link, Prices
from pcrstore.dataset import Dataset, open_dataset
from pcrstore.demo.bucket import bucket
from pcrstore.demo.images import copy_images, make_images, writing
from pcrstore.errors import DatasetExistsError, MissingDependencyError, OptionError
from pcrstore.preview import Row, contact_sheet
from pcrstore.storage import open_store

__all__ = ["DemoReport", "Epoch", "run_demo"]

_SHEET_ROWS: Final = 4
_RECORD_BYTES: Final = 512 * 1024
"""Size of a record, less than the default, so that a few images make several records."""

_LOOPBACK: Final = CostModel(
    prices=Prices(name="loopback", per_get=0.0, per_byte=0.0, source="this machine"),
    link=Link(bandwidth=1e9, per_connection=1e9, latency=5e-4, concurrency=16),
    per_second=1.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Traffic and time of reading every image once at one fidelity."""

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
    """Results of the demo."""

    images: str
    """Description of the images."""
    conversion: Report
    epochs: tuple[Epoch, ...]
    original_key: str
    original_bytes: int
    original_sha256: str
    """Hash of the file that the dataset gave back, and of the source file."""
    sheet: str
    """Path of the contact sheet."""


def run_demo(
    folder: str | None = None,
    *,
    output: str | None = None,
    keep: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> DemoReport:
    """Convert some images into a bucket in this process and read them back.

    Args:
        folder: Images, as for `convert`, on a local disk; None: photos of scikit-image and some
            generated images.
        output: File for the contact sheet; None: in `keep`, or a temporary file.
        keep: A new or empty folder for the images and the dataset; None: they are deleted.
        say: Called with a line of text at each step.

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
        described = copy_images(Path(folder), photos) if folder is not None else make_images(photos)
        say(f"images: {described}")
        sheet = stack.enter_context(_sheet(output, keep))
        url, options = stack.enter_context(bucket())
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
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        is_empty = not any(root.iterdir())
    if not is_empty:
        raise DatasetExistsError(f"{root}: expected an empty folder, got one with files in it")
    yield root


@contextlib.contextmanager
def _sheet(output: str | None, keep: str | None) -> Iterator[Path]:
    """Yield the path of the contact sheet, as an empty file.

    A path that cannot be written to is an error before the work is done, not after it.
    """
    if output is None and keep is None:
        handle, name = tempfile.mkstemp(prefix="pcrstore-demo-", suffix=".png")
        os.close(handle)
        path = Path(name)
    else:
        path = Path(output) if output is not None else Path(str(keep)) / "sheet.png"
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise OptionError(f"output must end in .png, .jpg or .webp, got {path.name!r}")
        with writing(path), path.open("ab"):
            pass
    try:
        yield path
    finally:
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def _read_epochs(url: str, options: Mapping[str, object]) -> tuple[Epoch, ...]:
    """Read every image once at each fidelity, each time by a reader without an index."""
    epochs: list[Epoch] = []
    for k in range(open_dataset(url, options).n_groups, 0, -1):
        ds = open_dataset(url, options, cost=_LOOPBACK)
        m = ds.manifest
        quality = m.measured()
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
                ms_ssim=None if quality is None else quality.mean[k - 1],
                seconds=seconds,
                images_per_second=n_images / seconds,
            )
        )
    return tuple(reversed(epochs))


def _chosen(ds: Dataset) -> Sequence[int]:
    """Return the images of the sheet: one of each class, generated ones last."""
    first: dict[int, int] = {}
    for i, label in enumerate(ds.labels.tolist()):
        first.setdefault(label, i)
    names = {i: ds.classes[label] if label >= 0 else "" for label, i in first.items()}
    return sorted(names, key=lambda i: (names[i] == "generated", names[i]))[:_SHEET_ROWS]


def _draw(ds: Dataset, path: Path) -> None:
    m = ds.manifest
    quality = m.measured()
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
        + ("" if quality is None else f", MS-SSIM {quality.mean[k - 1]:.3f}")
        for k in fidelities
    ]
    with writing(path):
        contact_sheet(titles, rows).save(path)


def _one_original(ds: Dataset, photos: Path) -> tuple[str, bytes]:
    """Read one original, and compare it with the source file."""
    index = _chosen(ds)[0]
    key = str(ds.column("key", [index])[0])
    data = ds.fetch([index], "original")[0]
    if data != (photos / key).read_bytes():
        raise AssertionError(f"the original of {key} did not come back: a bug in pcrstore")
    return key, data


def _save(url: str, options: Mapping[str, object], folder: Path) -> None:
    bucket, disk = open_store(url, options), open_store(str(folder))
    for entry in bucket.list(""):
        disk.put(entry.name, bucket.get(entry.name, max_bytes=entry.n_bytes))
