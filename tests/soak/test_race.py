"""Exactly one of sixteen writers wins, whatever the store.

Sixteen writers commit manifests of different content under the same version at the same moment, one
version after the other. In every round one writer must be told that it won, all others
`DatasetExistsError`, and the manifest that stands must be the winner's.

moto looks whether an object exists and then writes it, in two steps and many threads, so that two
of its clients can both be told that theirs was the first. S3 does not do that. Here a lock around
each of moto's PUTs makes it as atomic as S3.
"""

import logging
import multiprocessing
import sys
import threading
import uuid

import pytest
from msgspec.structs import replace
from small_sources import encoded, write_sources

import pcrstore
from pcrstore.dataset import commit, newest_version, read_manifest
from pcrstore.errors import DatasetExistsError
from pcrstore.storage import open_store

pytestmark = pytest.mark.soak

ROUNDS = 100
WRITERS = 16
TIMEOUT = 120.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("race")
    pcrstore.convert(write_sources(folder / "in", {"a/1.jpg": encoded(1, (16, 16))}), folder / "ds")
    return read_manifest(open_store(str(folder / "ds")), 1)


@pytest.fixture(scope="module")
def atomic_s3():
    """Run moto's S3 with a bucket `race`, one PUT at a time; give the options that reach it."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    serving = pytest.importorskip("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    inner = moto.DomainDispatcherApplication(moto.create_backend_app)
    lock = threading.Lock()

    def app(environ, start):
        if environ["REQUEST_METHOD"] != "PUT":
            return inner(environ, start)
        with lock:
            return list(inner(environ, start))

    server = serving.make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="race")
    client.close()
    yield {"endpoint_url": endpoint}
    server.shutdown()
    server.server_close()


def write(place, manifest, writer, rounds, gate, put):
    """Commit every version at the same moment as the other writers; put the outcomes."""
    store = open_store(*place[:2], engine=place[2])
    newest_version(store)  # connections, clients and sessions are there before the race
    outcomes = []
    for version in range(1, rounds + 1):
        own = replace(manifest, version=version, splits=(f"s{writer}",), writer=f"w{writer}")
        gate.wait(TIMEOUT)
        try:
            outcomes.append("won" if commit(store, own).writer == own.writer else "agreed")
        except DatasetExistsError:
            outcomes.append("lost")
        except Exception as e:  # noqa: BLE001 - whatever else happens is the finding
            outcomes.append(f"{type(e).__name__}: {e}")
    put((writer, outcomes))


def assert_one_wins(place, rounds, found):
    store = open_store(*place[:2], engine=place[2])
    for i in range(rounds):
        outcomes = {writer: outcomes[i] for writer, outcomes in found.items()}
        assert sorted(outcomes.values()) == ["lost"] * (WRITERS - 1) + ["won"]
        [winner] = [writer for writer, outcome in outcomes.items() if outcome == "won"]
        assert read_manifest(store, i + 1).writer == f"w{winner}"


def race_processes(place, manifest, rounds):
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(WRITERS), context.Queue()
    running = [
        context.Process(
            target=write, args=(place, manifest, w, rounds, gate, results.put), daemon=True
        )
        for w in range(WRITERS)
    ]
    for process in running:
        process.start()
    found = dict(results.get(timeout=10 * TIMEOUT) for _ in running)
    for process in running:
        process.join()
    assert_one_wins(place, rounds, found)


@pytest.fixture
def _restless():
    """Switch between threads as often as can be: an object in memory is there in microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
def test_one_of_many_threads_wins_in_memory(manifest, scaled):
    place = f"memory://race-{uuid.uuid4().hex}", None, "auto"
    rounds, gate, found = scaled(ROUNDS), threading.Barrier(WRITERS), []
    running = [
        threading.Thread(target=write, args=(place, manifest, w, rounds, gate, found.append))
        for w in range(WRITERS)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert_one_wins(place, rounds, dict(found))


def test_one_of_many_processes_wins_in_a_folder(manifest, scaled, tmp_path):
    race_processes((str(tmp_path), None, "auto"), manifest, scaled(ROUNDS))


@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
def test_one_of_many_processes_wins_on_s3(manifest, scaled, atomic_s3, engine):
    pytest.importorskip({"fsspec": "s3fs"}.get(engine, engine))
    race_processes((f"s3://race/{engine}", atomic_s3, engine), manifest, scaled(ROUNDS))
