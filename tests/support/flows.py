"""Small trees, datasets and stores for tests of whole conversions."""

import hashlib
import io
import itertools
import os
import threading
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jpeg_files import picture, segment
from msgspec.structs import asdict, replace
from PIL import Image

import pcrstore
from pcrstore import Options
from pcrstore.conversion.sources.base import Listing, SourceFile
from pcrstore.conversion.sources.folder import FolderSource
from pcrstore.core.checksum import crc32c
from pcrstore.cost.model import DEFAULT_COST
from pcrstore.dataset.dataset import Dataset
from pcrstore.dataset.versions import newest_version, read_manifest
from pcrstore.errors import NotFoundError
from pcrstore.format.manifest import decode_manifest
from pcrstore.format.names import manifest_name
from pcrstore.storage.open import open_store
from pcrstore.storage.protocol import Entry, Store, check_name, check_prefix, exact, too_large
from pcrstore.testing import StoreKilled

RECORD = Options(record_images=3, object_bytes=6000)
"""Three images a record, two or three records an object."""
HELD = Options(layout="zarr", record_images=3, object_bytes=6000, chunk_bytes=1500)
"""Zarr arrays that stay in memory until the end."""
CUT = Options(layout="zarr", record_images=3, object_bytes=6000, chunk_bytes=700, hold_bytes=0)
"""Zarr arrays whose chunks are stored as they fill: 700 bytes each."""

LAYOUTS = {"record": RECORD, "zarr-held": HELD, "zarr-cut": CUT}


@cache
def photo(seed=0, *, mode="RGB", size=(40, 48), quality=85, progressive=False, exif=b""):
    """A small JPEG, another one for every seed."""
    samples = picture(*size, {"L": 1, "RGB": 3, "CMYK": 4}[mode], seed=seed)
    image = Image.fromarray(samples[..., 0] if mode == "L" else samples, mode)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, progressive=progressive, exif=exif)
    return out.getvalue()


@cache
def png(seed=0):
    """The PNG of a photo."""
    out = io.BytesIO()
    Image.fromarray(picture(20, 24, 3, seed=seed)).save(out, "PNG")
    return out.getvalue()


@cache
def arithmetic():
    """A JPEG whose frame header says that it is arithmetically coded."""
    data = photo(90)
    at = data.index(b"\xff\xc0")
    return data[: at + 1] + b"\xc9" + data[at + 2 :]


def photos(n=11):
    """Key -> file of `n` photos in two classes and one without."""
    modes = itertools.cycle(["RGB", "L", "RGB", "CMYK"])
    out = {"loose.jpg": photo(1000)}
    for i, mode in zip(range(n - 1), modes, strict=False):
        name = f"{'cat' if i % 2 else 'dog'}/{i:03d}.jpg"
        out[name] = photo(i, mode=mode, progressive=i % 5 == 3)
    return out


def write_tree(root, files):
    """Write key -> bytes below `root`; return it."""
    root = Path(root)
    for key, data in files.items():
        path = os.path.join(os.fsencode(root), os.fsencode(key))  # noqa: PTH118 - bytes
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - bytes
        with open(path, "wb") as f:  # noqa: PTH123 - bytes
            f.write(data)
    return root


def memory():
    """The URL of an empty memory store."""
    return f"memory://{uuid.uuid4().hex}"


def put_all(store, files):
    """Put key -> bytes into a store; return it."""
    for key, data in files.items():
        store.put(key, data)
    return store


def snapshot(store):
    """Name -> bytes of everything stored."""
    return {e.name: store.get(e.name, max_bytes=e.n_bytes) for e in store.list("")}


def content(store):
    """Name -> bytes of everything stored; of the manifest what does not differ between runs."""
    found = snapshot(store)
    name = manifest_name(1)
    if name in found:
        m = decode_manifest(found[name], version=1, where=name)
        found[name] = repr(sorted((k, str(v)) for k, v in fields(m).items())).encode()
    return found


def fields(m):
    """Fields of a manifest but for those that differ from run to run."""
    conversions = tuple(replace(c, created="") for c in m.conversions)
    return asdict(replace(m, uid="0" * 32, writer="", created="", conversions=conversions))


def digest(root):
    """A hash of names, bytes and times of everything in a folder."""
    h = hashlib.sha256()
    for path in sorted(Path(root).rglob("*")):
        status = path.lstat()
        h.update(
            f"{path} {status.st_mode} {status.st_mtime_ns} {status.st_size}\n".encode(
                "utf-8", "surrogateescape"
            )
        )
        if path.is_file():
            h.update(path.read_bytes())
    return h.hexdigest()


def folder(url, *, split_dirs=False, **kwargs):
    """The class-per-folder source at a URL."""
    return FolderSource(open_store(str(url), **kwargs), split_dirs=split_dirs)


def convert_to(store, source, options, **kwargs):
    """Convert a source, or the folder at a path or URL, into a given store object."""
    source = str(source) if isinstance(source, os.PathLike) else source
    return pcrstore.convert(source, store, options, **{"workers": 1, **kwargs})


def convert_with(engine, source, destination, options=None, **kwargs):
    """Convert from URL to URL with one engine on both sides; `kwargs` as for `convert`."""
    src = open_store(source, kwargs.pop("source_options", None), engine=engine)
    dst = open_store(destination, kwargs.pop("destination_options", None), engine=engine)
    return pcrstore.convert(src, dst, options, **kwargs)


@dataclass(frozen=True)
class Pictures:
    """A source of JPEGs in memory, their labels and splits chosen at will."""

    files: dict[str, bytes]
    labels: dict[str, str] | None = None
    splits: dict[str, str] | None = None
    url: str = "pictures:"
    max_readers: int = 1
    shared_by_processes: bool = True

    def list(self):
        return Listing(
            files=tuple(
                SourceFile(
                    key=key,
                    label=(self.labels or {}).get(key),
                    split=(self.splits or {}).get(key),
                    n_bytes=len(data),
                    stamp=f"{crc32c(data):08x}",
                )
                for key, data in self.files.items()
            )
        )

    def read(self, file):
        return self.files[file.key]


class WatchedSource:
    """Another source, with the keys of the files that were read of it."""

    def __init__(self, source):
        self.url, self.max_readers = source.url, source.max_readers
        self.shared_by_processes = source.shared_by_processes
        self._source = source
        self.read_keys = []

    def list(self):
        return self._source.list()

    def read(self, file):
        self.read_keys.append(file.key)
        return self._source.read(file)


def dataset(store):
    """The dataset of a store object."""
    return Dataset(store, read_manifest(store, newest_version(store)), DEFAULT_COST)


def originals(ds):
    """Key -> source file, as the dataset gives it back."""
    return dict(zip(ds.keys, ds.fetch(range(len(ds)), fidelity="original"), strict=True))


def padded(data, n):
    """A JPEG made `n` bytes long by a comment."""
    missing = n - len(data)
    return data[:2] + segment(0xFE, b"x" * (missing - 4)) + data[2:]


class DictStore(Store):
    """Objects in a dictionary: quick, and whole under threads."""

    url = "memory://dictionary"
    create_is_atomic = True
    shared_by_processes = False

    def __init__(self, objects=()):
        self.objects = dict(objects)
        self._lock = threading.Lock()

    def __reduce__(self):
        return DictStore, (self.objects,)

    def get(self, name, *, max_bytes):
        data = self._get(name)
        if len(data) > max_bytes:
            raise too_large(self.url, name, max_bytes=max_bytes, n_bytes=len(data))
        return data

    def _get(self, name):
        with self._lock:
            if check_name(name) not in self.objects:
                raise NotFoundError(f"{name}: no such object")
            return self.objects[name]

    def get_ranges(self, ranges):
        return [_part(self._get(r.name), r) if len(r) else b"" for r in ranges]

    def list(self, prefix):
        folder = check_prefix(prefix)
        with self._lock:
            return [
                Entry(name=name, n_bytes=len(data), etag=f"{crc32c(data):08x}")
                for name, data in sorted(self.objects.items())
                if not folder or name.startswith(f"{folder}/")
            ]

    def put(self, name, data):
        with self._lock:
            self.objects[check_name(name)] = bytes(data)

    def create(self, name, data):
        with self._lock:
            if name in self.objects:
                return False
            self.objects[check_name(name)] = bytes(data)
            return True

    def delete(self, names):
        with self._lock:
            for name in names:
                self.objects.pop(name, None)


def _part(data, wanted):
    """Bytes of a range, which must lie inside."""
    return exact(data[wanted.start : wanted.stop], wanted)


class MortalStore(Store):
    """A process that dies at storage operation `at`, before it or once it took effect.

    From then on nothing reaches the store, from whatever thread: a dead process stores nothing.
    """

    create_is_atomic = True
    shared_by_processes = False
    url = ""

    def __init__(self, store, at=None, *, after=False):
        self.store = store
        self.url = store.url
        self.n = 0
        self._at = at
        self._after = after
        self._lock = threading.Lock()
        self.dead = False

    def _do(self, work):
        with self._lock:
            if self.dead:
                raise StoreKilled("dead")
            mine, self.n = self.n, self.n + 1
            if mine == self._at:
                self.dead = True
                if self._after:
                    work()
                raise StoreKilled(f"operation {mine}")
            return work()

    def get(self, name, *, max_bytes):
        return self._do(lambda: self.store.get(name, max_bytes=max_bytes))

    def get_ranges(self, ranges):
        return self._do(lambda: self.store.get_ranges(ranges))

    def list(self, prefix):
        return self._do(lambda: self.store.list(prefix))

    def put(self, name, data):
        return self._do(lambda: self.store.put(name, data))

    def create(self, name, data):
        return self._do(lambda: self.store.create(name, data))

    def delete(self, names):
        for name in names:
            self._do(lambda name=name: self.store.delete([name]))


def listed(source, **kwargs):
    """The listing of a folder."""
    return folder(source, **kwargs).list()
