"""S3, GCS and Azure through obstore: the fast engine.

    thread --coroutine--> I/O loop --get_range--> Rust's own threads     one request per range

obstore's `get_ranges` is not used: it merges neighbours even with coalesce=0, and fails as one.
Beside a busy Python thread single ranges on a loop are as fast (6,000/s of 20 kB) where a pool of
threads falls to 1,100/s, since each wake-up waits for the interpreter's lock.

After a fork obstore's threads are gone and any call hangs, also on a new store. A child of a
process that has used obstore reads through fsspec instead, and says so once.

What obstore completes on a thread of its own passes through `_calls.hold`, so that the interpreter
can end without one of these threads in it: see `pcrstore.concurrency.coroutines.NativeCalls`.
"""

import atexit
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.asyn import get_loop

from pcrstore.concurrency import NativeCalls, each
from pcrstore.core import ByteRange
from pcrstore.errors import (
    AccessDeniedError,
    MissingDependencyError,
    NotFoundError,
    OptionError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage.errors import Translator, says_exists
from pcrstore.storage.fsspec_store import FsspecStore
from pcrstore.storage.options import ObjectStoreSettings, translate_options
from pcrstore.storage.protocol import (
    PROBE_NAME,
    Bodies,
    Entries,
    Entry,
    check_name,
    check_prefix,
    exact,
    without_markers,
)
from pcrstore.storage.redact import secrets_in
from pcrstore.storage.retry import RetryPolicy, retry_async

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import ObjectStore

__all__ = ["ForkedObstoreWarning", "ObstoreStore"]

T = TypeVar("T")

SINGLE_PUT = 32 << 20
"""Larger objects go up in parts at a time; smaller ones as one request, the cheapest."""
PART = 16 << 20


class ForkedObstoreWarning(RuntimeWarning):
    """obstore was used before a fork, so that this process has to read through fsspec."""


class _Process:
    """What this process, or the one it was forked from, did with obstore."""

    used = False
    poisoned = False
    warned = False

    @classmethod
    def after_fork(cls) -> None:
        cls.poisoned = cls.used

    @classmethod
    def before_exit(cls) -> None:
        if cls.used and not cls.poisoned:
            _calls.end()


def _settle() -> None:
    """Enter obstore, which then drops the references that its threads gave up without the GIL."""
    from obstore.store import MemoryStore  # noqa: PLC0415 (optional)

    MemoryStore()


_calls = NativeCalls(_settle)
os.register_at_fork(after_in_child=_Process.after_fork)
# Exit handlers run last first: those of whoever imports this may still read.
atexit.register(_Process.before_exit)


class ObstoreStore:
    """A folder of a bucket, read and written by obstore.

    Args:
        url: `s3://`, `gs://` or `az://` URL of the folder.
        options: As for s3fs, gcsfs or adlfs.
        policy: Waits and deadline.
        max_in_flight: Requests at a time, of one call.

    Raises:
        NotTranslatableError: An option that obstore has no counterpart for.
        MissingDependencyError: obstore is not installed.
    """

    create_is_atomic = True

    def __init__(
        self,
        url: str,
        options: Mapping[str, object] | None = None,
        *,
        policy: RetryPolicy | None = None,
        max_in_flight: int = 64,
    ) -> None:
        try:
            import obstore  # noqa: F401, PLC0415 (optional; the parent of a fork may not need it)
        except ImportError as e:
            raise MissingDependencyError(
                "engine='obstore' needs obstore: pip install 'pcrstore[fast]'"
            ) from e
        self._url = url
        self._options = dict(options or {})
        self._policy = policy or RetryPolicy()
        self._max_in_flight = max_in_flight
        self._settings = translate_options(url, self._options, os.environ)
        self._translator = Translator(url, secrets_in(url, self._options), self._policy)
        self._lock = threading.Lock()
        self._pid = -1
        self._store: ObjectStore
        self._fallback: FsspecStore | None = None

    @property
    def url(self) -> str:
        """Root of the store, without credentials."""
        return self._translator.url

    @property
    def n_retries(self) -> int:
        """Requests so far that failed in a way worth another try."""
        n = self._translator.n_retryable
        return n if self._fallback is None else n + self._fallback.n_retries

    @property
    def needs_boto(self) -> bool:
        """True when only boto3 can find the credentials (~/.aws, instance roles)."""
        return self._settings.boto

    def __repr__(self) -> str:
        return f"ObstoreStore({self.url!r})"

    def __getstate__(self) -> dict[str, object]:
        return {
            "url": self._url,
            "options": self._options,
            "policy": self._policy,
            "max_in_flight": self._max_in_flight,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a store is its arguments

    def get(self, name: str) -> bytes:
        """Return a whole object, in one request."""
        fallback = self._after_fork()
        if fallback:
            return fallback.get(name)
        import obstore  # noqa: PLC0415 (optional)

        store, path = self._client(), self._path(name)

        async def read() -> bytes:
            reply = await _calls.hold(obstore.get_async(store, path))
            return bytes(await _calls.hold(reply.bytes_async()))

        return self._await("read", name, read)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order; one request each."""
        fallback = self._after_fork()
        if fallback:
            return fallback.get_ranges(ranges)
        store = self._client()
        limit = self._max_in_flight
        return _run(each(ranges, lambda r: self._read_range(store, r), limit=limit))

    async def _read_range(self, store: "ObjectStore", wanted: ByteRange) -> bytes:
        import obstore  # noqa: PLC0415 (optional)

        path = self._path(wanted.name)
        if not len(wanted):
            return b""

        async def attempt() -> bytes:
            start, stop = wanted.start, wanted.stop
            body = bytes(
                await _calls.hold(obstore.get_range_async(store, path, start=start, end=stop))
            )
            checked = exact(body, wanted)
            if isinstance(checked, bytes):
                return checked
            raise self._translator.short(wanted.name, checked)

        return await retry_async(
            attempt,
            self._policy,
            lambda e: self._translator.error("read", wanted.name, e),
            n_bytes=len(wanted),
        )

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name.

        obstore cuts the slash from the end of a key, and refuses a whole listing for one key that
        it has no name for (`a//b.jpg`). A request for each empty object tells the marker of an
        empty folder from an empty file, and fsspec lists what obstore cannot.
        """
        fallback = self._after_fork()
        if fallback:
            return fallback.list(prefix)
        import obstore  # noqa: PLC0415 (optional)

        folder = check_prefix(prefix)
        store = self._client()
        path = self._path(folder) if folder else self._settings.root

        async def read() -> Entries | None:
            # A larger chunk than a page of the service's, so that Python is entered once a page.
            pages = obstore.list(store, path or None, chunk_size=1000)
            entries: Entries = []
            while True:
                try:
                    page = await _calls.hold(anext(pages))
                except StopAsyncIteration:
                    return entries
                except obstore.exceptions.InvalidPathError:
                    return None
                entries += (
                    Entry(
                        name=str(found["path"]).removeprefix(f"{self._settings.root}/"),
                        n_bytes=found["size"],
                        etag=(found["e_tag"] or "").strip('"') or None,
                    )
                    for found in page
                    if found["path"] != path  # the folder's own marker
                )

        entries = self._await("list", folder, read, n_bytes=8 << 20)
        if entries is None:
            return self._list_through_fsspec(prefix)
        shown = without_markers(e for e in entries if e.name.rpartition("/")[2] != PROBE_NAME)
        empty = [e.name for e in shown if not e.n_bytes]
        limit = self._max_in_flight
        exists = _run(each(empty, lambda name: self._exists(store, name), limit=limit))
        markers = {name for name, found in zip(empty, exists, strict=True) if not found}
        return [e for e in shown if e.name not in markers]

    def _list_through_fsspec(self, prefix: str) -> Entries:
        try:
            return self._stand_in().list(prefix)
        except MissingDependencyError as e:
            raise MissingDependencyError(
                f"cannot list {self.url}: obstore refuses keys with an empty, '.' or '..' part, "
                f"and there are some; {e}"
            ) from e

    async def _exists(self, store: "ObjectStore", name: str) -> bool:
        import obstore  # noqa: PLC0415 (optional)

        path = self._path(name)

        async def attempt() -> bool:
            await _calls.hold(obstore.head_async(store, path))
            return True

        try:
            return await retry_async(
                attempt, self._policy, lambda e: self._translator.error("look at", name, e)
            )
        except NotFoundError:
            return False

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        fallback = self._after_fork()
        if fallback:
            fallback.put(name, data)
            return
        import obstore  # noqa: PLC0415 (optional)

        store, path = self._client(), self._path(name)

        async def write() -> None:
            await _calls.hold(
                obstore.put_async(
                    store,
                    path,
                    _calls.hold(memoryview(data)),
                    use_multipart=len(data) > SINGLE_PUT,
                    chunk_size=PART,
                )
            )

        self._await("write", name, write, n_bytes=len(data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists; see `pcrstore.storage.protocol.Store.create`."""
        fallback = self._after_fork()
        if fallback:
            return fallback.create(name, data)
        import obstore  # noqa: PLC0415 (optional)

        store, path, n_tries = self._client(), self._path(name), 0

        async def attempt() -> bool:
            nonlocal n_tries
            n_tries += 1
            try:
                await _calls.hold(
                    obstore.put_async(store, path, _calls.hold(memoryview(data)), mode="create")
                )
            except obstore.exceptions.AlreadyExistsError as e:
                if not says_exists(e):
                    raise self._translator.conflict(name, e) from e
                return False
            return True

        created = self._await("create", name, attempt, n_bytes=len(data))
        if created or n_tries == 1:
            return created
        # An earlier try failed without an answer, and may have been the one that made it.
        try:
            return self.get(name) == data
        except StoreError as e:
            raise TransientStoreError(
                f"cannot tell who created {self.url}/{name}: it exists and could not be read"
            ) from e

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that do not exist are fine."""
        fallback = self._after_fork()
        if fallback:
            fallback.delete(names)
            return
        store = self._client()
        limit = self._max_in_flight
        _run(each(names, lambda name: self._delete_one(store, name), limit=limit))

    async def _delete_one(self, store: "ObjectStore", name: str) -> None:
        import obstore  # noqa: PLC0415 (optional)

        path = self._path(name)

        async def attempt() -> None:
            await _calls.hold(obstore.delete_async(store, path))

        try:
            await retry_async(
                attempt, self._policy, lambda e: self._translator.error("delete", name, e)
            )
        except NotFoundError as e:
            if "bucket" in str(e):
                raise

    def _path(self, name: str) -> str:
        check_name(name)
        return f"{self._settings.root}/{name}" if self._settings.root else name

    def _await(
        self, verb: str, name: str, attempt: Callable[[], Awaitable[T]], *, n_bytes: int = 0
    ) -> T:
        def translate(e: Exception) -> StoreError:
            return self._translator.error(verb, name, e)

        return _run(retry_async(attempt, self._policy, translate, n_bytes=n_bytes))

    def _after_fork(self) -> FsspecStore | None:
        """Return the stand-in where obstore would hang."""
        if not _Process.poisoned:
            return None
        if not _Process.warned:
            _Process.warned = True
            warnings.warn(
                "obstore was used before this process was forked and cannot be used in it; "
                "reading through fsspec, which is slower. Start workers with 'spawn' or "
                "'forkserver', or open the dataset with engine='fsspec'.",
                ForkedObstoreWarning,
                stacklevel=3,
            )
        return self._stand_in()

    def _stand_in(self) -> FsspecStore:
        """Return the same folder, read through fsspec."""
        if self._fallback is None:
            self._fallback = FsspecStore(
                self._url,
                self._options,
                policy=self._policy,
                max_in_flight=self._max_in_flight,
            )
        return self._fallback

    def _client(self) -> "ObjectStore":
        """Return this process's client, made on first use."""
        if self._pid != os.getpid():
            # A fork may have copied the lock while it was held.
            lock = self._lock if self._pid == -1 else threading.Lock()
            with lock:
                if self._pid != os.getpid():
                    _Process.used = True
                    self._store = _make(self._settings, self._policy, self._translator)
                    self._lock, self._pid = lock, os.getpid()
        return self._store


def _make(
    settings: ObjectStoreSettings, policy: RetryPolicy, translator: Translator
) -> "ObjectStore":
    from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415 (optional)

    stall = timedelta(seconds=min(policy.stall, policy.deadline))
    options: dict[str, Any] = {
        "config": dict(settings.config),
        "client_options": {
            "allow_http": settings.allow_http,
            "allow_invalid_certificates": settings.allow_invalid_certificates,
            "connect_timeout": timedelta(seconds=min(policy.connect, policy.deadline)),
            "read_timeout": stall,
            # The default cuts every request off after 30 s; ours grows with the bytes it moves.
            "timeout": timedelta(days=1),
        },
        "retry_config": {"max_retries": 0},  # pcrstore.retry is the only loop
    }
    if settings.boto:
        options["credential_provider"] = _boto_credentials(settings, translator)
    kinds: dict[str, Callable[..., ObjectStore]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    try:
        return kinds[settings.kind](settings.bucket, **options)
    except Exception as e:  # noqa: BLE001 (obstore raises its own, which are no ValueErrors)
        reason = translator.redact(str(e).partition("\n")[0])
        raise OptionError(f"obstore cannot open {translator.url}: {reason}") from None


def _boto_credentials(
    settings: ObjectStoreSettings, translator: Translator
) -> "Boto3CredentialProvider":
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 (optional)

    try:
        boto3 = import_module("boto3")  # without types
        return Boto3CredentialProvider(boto3.Session(profile_name=settings.profile))
    except Exception as e:
        raise AccessDeniedError(
            f"cannot open {translator.url}: no usable credentials ({e}); give them in "
            "storage_options or the environment, or anon=true for a public bucket"
        ) from e


def _run(work: Coroutine[object, object, T]) -> T:
    """Return what the coroutine returns, run on fsspec's loop.

    That is one I/O thread per process, made anew after a fork.
    """
    return _calls.run(get_loop(), work)
