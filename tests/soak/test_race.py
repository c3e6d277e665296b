"""Does exactly one of sixteen writers win, whatever the store?

    python -m tests.soak.test_race [--rounds 100] [--writers 16] [--json]

Sixteen processes commit manifests of different content under the same version at the same moment,
100 versions one after the other: on a local folder, and on moto's S3 with both engines; sixteen
threads do on memory://. In every round one writer must be told that it won, all others
`DatasetExistsError`, and the manifest that stands must be the winner's, for every reader. Needs no
data.

moto looks whether an object exists and then writes it, in two steps and many threads, so that two
of its clients can both be told that theirs was the first. S3 does not do that. Here a lock around
each of moto's PUTs makes it as atomic as S3.
"""

import logging
import multiprocessing
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks.common import Report, fresh, parser, work_folder
from benchmarks.speed.scale import PER_PART, manifest_of, part_of, uid_of
from pcrstore.dataset.versions import commit, newest_version, read_manifest
from pcrstore.errors import DatasetExistsError
from pcrstore.format.manifest import Manifest
from pcrstore.storage.open import Engine, open_store

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

TIMEOUT: Final = 120.0
Outcome = tuple[int, int, str]
"""Round, writer, and `won`, `lost` or an error."""


class Gate(Protocol):
    """Where all writers wait for each other."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all are there."""


def mine(manifest: Manifest, writer: int, version: int) -> Manifest:
    """Return a manifest that no other writer makes."""
    return replace(
        manifest, version=version, conversion=uid_of(f"writer {writer}").hex(), writer=f"w{writer}"
    )


def outcomes(
    url: str,
    options: dict[str, object] | None,
    engine: Engine,
    manifest: Manifest,
    writer: int,
    rounds: int,
    gate: Gate,
) -> Iterator[Outcome]:
    """Commit every version, each at the same moment as the other writers."""
    store = open_store(url, options, engine=engine)
    newest_version(store)  # connections, clients and sessions are there before the race
    for version in range(1, rounds + 1):
        own = mine(manifest, writer, version)
        gate.wait(TIMEOUT)
        try:
            yield version, writer, "won" if commit(store, own).won else "agreed"
        except DatasetExistsError:
            yield version, writer, "lost"
        except Exception as e:  # noqa: BLE001 - whatever else happens is the finding
            yield version, writer, f"{type(e).__name__}: {e}"


def run_process(
    results: "Queue[list[Outcome]]",
    url: str,
    options: dict[str, object] | None,
    engine: Engine,
    manifest: Manifest,
    writer: int,
    rounds: int,
    gate: Barrier,
) -> None:
    """Be one writer in a process of its own."""
    results.put(list(outcomes(url, options, engine, manifest, writer, rounds, gate)))


def processes(
    url: str,
    options: dict[str, object] | None,
    engine: Engine,
    manifest: Manifest,
    writers: int,
    rounds: int,
) -> list[Outcome]:
    """Race processes, which stay alive over all rounds."""
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(writers)
    results = context.Queue()
    running = [
        context.Process(
            target=run_process,
            args=(results, url, options, engine, manifest, w, rounds, gate),
            daemon=True,
        )
        for w in range(writers)
    ]
    for p in running:
        p.start()
    out = [o for _ in running for o in results.get(timeout=10 * TIMEOUT)]
    for p in running:
        p.join()
    return out


def threads(url: str, manifest: Manifest, writers: int, rounds: int) -> list[Outcome]:
    """Race threads of this process."""
    gate = threading.Barrier(writers)
    out: list[Outcome] = []

    def run(writer: int) -> None:
        out.extend(outcomes(url, None, "auto", manifest, writer, rounds, gate))

    running = [threading.Thread(target=run, args=(w,)) for w in range(writers)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    return out


def judge(
    report: Report,
    title: str,
    found: list[Outcome],
    stands: Callable[[int], Manifest],
    writers: int,
    rounds: int,
    seconds: float,
) -> None:
    """Check that every round had one winner, whose manifest stands."""
    fair, others = 0, set()
    for version in range(1, rounds + 1):
        here = {w: how for v, w, how in found if v == version}
        winners = [w for w, how in here.items() if how == "won"]
        n_lost = sum(how == "lost" for how in here.values())
        others |= {how for how in here.values() if how not in ("won", "lost")}
        if len(winners) == 1 and n_lost == writers - 1:
            fair += stands(version).writer == f"w{winners[0]}"
    wins = {w for _, w, how in found if how == "won"}
    report.check(
        f"{title}, {writers} writers",
        f"{fair} of {rounds} rounds, {len(wins)} writers won at least once, other outcomes "
        f"{sorted(others)[:3]}; {seconds:.0f} s",
        "one winner in each, whose manifest stands",
        ok=fair == rounds,
    )


Environ = dict[str, object]
App = Callable[[Environ, Callable[..., object]], Iterable[bytes]]


@contextmanager
def moto() -> Iterator[dict[str, object]]:
    """Run moto's S3 with a bucket `race`, one PUT at a time; give the options that reach it."""
    import boto3  # noqa: PLC0415 - not needed elsewhere
    from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    inner: App = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def app(environ: Environ, start: Callable[..., object]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return inner(environ, start)
        with lock:
            return list(inner(environ, start))

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="race")
    yield {"endpoint_url": endpoint, "key": "bench", "secret": "bench"}
    server.shutdown()


def main() -> int:
    """Run everything."""
    p = parser(__doc__)
    p.add_argument("--rounds", type=int, default=100)
    p.add_argument("--writers", type=int, default=16)
    args = p.parse_args()
    work = work_folder(args.work) / "race"
    report = Report(benchmark="race", as_json=args.as_json)
    manifest = manifest_of([part_of(0, PER_PART)[0]])
    n, rounds = args.writers, args.rounds

    def race(title: str, url: str, options: dict[str, object] | None, engine: Engine) -> None:
        start = time.perf_counter()
        if url.startswith("memory:"):
            found = threads(url, manifest, n, rounds)
        else:
            found = processes(url, options, engine, manifest, n, rounds)
        seconds = time.perf_counter() - start
        store = open_store(url, options, engine=engine)
        judge(report, title, found, lambda v: read_manifest(store, v), n, rounds, seconds)

    race("threads on memory://", f"memory://race-{uuid.uuid4().hex}", None, "auto")
    race("processes on file://", str(Path(fresh(work)).absolute()), None, "auto")
    fresh(work)
    with moto() as options:
        for engine in ("fsspec", "obstore"):
            race(f"processes on moto, {engine}", f"s3://race/{engine}", options, engine)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
