"""Azure Blob Storage, as Azurite speaks it: convert, read, verify, one winner of each create."""

import io
import os
import subprocess
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from azure.storage.blob import BlobServiceClient
from PIL import Image

import pcrstore
from pcrstore.core.ranges import ByteRange
from pcrstore.errors import FormatError, NotFoundError
from pcrstore.storage import open as stores
from pcrstore.storage.fsspec_store import FsspecStore
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.open import open_store
from pcrstore.testing.contract import StoreContract

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite: https://learn.microsoft.com/azure/storage/common/storage-use-azurite."""
N_RIVALS = 8


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """Azurite on a port of its own; it forgets everything at the end."""
    program = Path(os.environ["NEIGHBOUR_DIR"], "node_modules", ".bin", "azurite-blob")
    flags = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    with subprocess.Popen(
        [program, *flags, "--blobPort", "0"],
        cwd=tmp_path_factory.mktemp("azurite"),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            told = next(line for line in server.stdout if "successfully listens" in line)
            yield told.split()[-1]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def options(endpoint):
    parts = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": ACCOUNT,
        "AccountKey": KEY,
        "BlobEndpoint": f"{endpoint}/{ACCOUNT}",
    }
    return {"connection_string": ";".join(f"{name}={value}" for name, value in parts.items())}


@pytest.fixture
def url(options):
    """An empty container of this test's own."""
    name = f"test-{uuid.uuid4().hex}"
    with BlobServiceClient.from_connection_string(options["connection_string"]) as service:
        service.create_container(name)
    return f"az://{name}/ds"


ENGINES = {"obstore": ObstoreStore, "fsspec": FsspecStore}


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


class TestObstore(StoreContract):
    """obstore's Azure client passes what any store must."""

    @pytest.fixture
    def store(self, url, options):
        return open_store(url, options, engine="obstore")


def photos(folder):
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)
        path = folder / ("cat" if i % 2 else "dog") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((96, 72)).save(path, quality=90)
    return folder


def test_a_dataset_is_converted_read_and_verified(url, options, engine, tmp_path, monkeypatch):
    source = photos(tmp_path)
    if engine == "fsspec":
        monkeypatch.setattr(stores, "find_spec", lambda _name: None)  # as if without obstore
    assert isinstance(open_store(url, options), ENGINES[engine])
    report = pcrstore.convert(source, url, destination_options=options, workers=1)
    assert report.n_images == 12
    dataset = pcrstore.open(url, storage_options=options, engine=engine)
    assert dataset.fetch(range(12), fidelity="original") == [
        (source / key).read_bytes() for key in dataset.column("key")
    ]
    with Image.open(io.BytesIO(dataset.fetch([3], fidelity=1)[0])) as image:
        assert image.size == (96, 72)
    assert pcrstore.verify(url, options).faults == ()


def test_one_of_many_creators_wins(url, options):
    rivals = [open_store(url, options, engine="obstore") for _ in range(N_RIVALS)]
    start = threading.Barrier(N_RIVALS)

    def create(i, name):
        start.wait()
        return rivals[i].create(name, str(i).encode())

    with ThreadPoolExecutor(N_RIVALS) as pool:
        for name in ["a", "b", "c", "d"]:
            won = list(pool.map(create, range(N_RIVALS), [name] * N_RIVALS))
            assert won.count(True) == 1
            assert rivals[0].get(name, max_bytes=10) == str(won.index(True)).encode()
    assert [rival.n_retries for rival in rivals] == [0] * N_RIVALS


def test_the_engine_is_obstore_where_it_is_installed(url, options):
    assert isinstance(open_store(url, options), ObstoreStore)
    assert isinstance(open_store(url, options, engine="fsspec"), FsspecStore)
    assert open_store(url, options).create_is_atomic


def test_what_is_not_there_is_said(url, options, engine):
    store = open_store(url, options, engine=engine)
    with pytest.raises(NotFoundError, match=r"az://.*/ds/none"):
        store.get("none", max_bytes=10)
    store.put("a", b"01234")
    assert store.get_ranges([ByteRange("a", 1, 3), ByteRange("a", 3, 5)]) == [b"12", b"34"]


def test_a_whole_read_has_a_bound_and_an_object_a_size(url, options, engine):
    store = open_store(url, options, engine=engine)
    for name, data in {"a": b"01234", "empty": b""}.items():
        store.put(name, data)
        for max_bytes in (len(data), len(data) + 1, 2**53):
            assert store.get(name, max_bytes=max_bytes) == data
    for max_bytes in (0, 4):
        with pytest.raises(FormatError, match=f"a: expected at most {max_bytes} bytes"):
            store.get("a", max_bytes=max_bytes)
    assert store.sizes(["empty", "a"]) == [0, 5]
    with pytest.raises(NotFoundError, match="none"):
        store.sizes(["a", "none"])


def test_what_a_converter_made_is_done_for_the_next(url, options, tmp_path):
    source = photos(tmp_path)
    first = pcrstore.convert(source, url, destination_options=options, workers=1)
    again = pcrstore.convert(source, url, destination_options=options, workers=1)
    assert (first.already, again.already) == (False, True)
