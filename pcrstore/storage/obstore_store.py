"""S3, GCS and Azure through obstore, the fast engine.

    thread --coroutine--> I/O loop --get_range--> Rust's own threads     one request per range

obstore's `get_ranges` is not used: it merges neighbours even with coalesce=0, and fails as one.
Beside a busy Python thread single ranges on a loop are as fast (6,000/s of 20 kB) where a pool of
threads falls to 1,100/s, since each wake-up waits for the interpreter's lock.

After a fork obstore's threads are gone and any call hangs, also on a new store: in a child of a
process that has used obstore, the client is fsspec's, and a warning says so once.

Whatever obstore completes on a thread of its own passes through `_calls.hold`, so that the
interpreter can end without one of these threads in it: see `pcrstore.concurrency.NativeCalls`.
"""

import atexit
import os
import warnings
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fsspec.asyn import get_loop

from pcrstore.concurrency import NativeCalls, PerProcess
from pcrstore.core import ByteRange
from pcrstore.errors import AccessDeniedError, MissingDependencyError, OptionError, StoreError
from pcrstore.storage.errors import Translator, says_exists
from pcrstore.storage.fsspec_client import FsspecFolder
from pcrstore.storage.fsspec_store import FsspecClient
from pcrstore.storage.options import ObjectStoreSettings, translate_options
from pcrstore.storage.protocol import Entries, Entry, check_prefix
from pcrstore.storage.redact import secrets_in
from pcrstore.storage.remote import Client, ConflictError, RemoteStore, TooLargeError
from pcrstore.storage.retry import RetryPolicy

if TYPE_CHECKING:
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import ObjectStore

__all__ = ["ForkedObstoreWarning", "ObstoreStore"]

T = TypeVar("T")

SINGLE_PUT: Final = 32 << 20
"""Larger objects go up in parts at a time; smaller ones as one request, the cheapest."""
PART: Final = 16 << 20


class ForkedObstoreWarning(RuntimeWarning):
    """obstore was used before a fork, so that this process has to read through fsspec."""


class _Process:
    """Use of obstore by this process, and by those that it was forked from."""

    has_used = False
    was_forked_after_use = False
    has_warned = False

    @classmethod
    def after_fork(cls) -> None:
        cls.was_forked_after_use = cls.has_used

    @classmethod
    def before_exit(cls) -> None:
        if cls.has_used and not cls.was_forked_after_use:
            _calls.end()

    @classmethod
    def can_use(cls) -> bool:
        """Say whether obstore works here; note its use, or warn once."""
        if not cls.was_forked_after_use:
            cls.has_used = True
            return True
        if not cls.has_warned:
            cls.has_warned = True
            warnings.warn(
                "obstore was used before this process was forked and cannot be used in it; "
                "reading through fsspec, which is slower. Start workers with 'spawn' or "
                "'forkserver', or open the dataset with engine='fsspec'.",
                ForkedObstoreWarning,
                stacklevel=5,
            )
        return False


def _drop_references() -> None:
    """Enter obstore, which then drops the references that its threads gave up without the GIL."""
    import_module("obstore.store").MemoryStore()


_calls = NativeCalls(_drop_references)
os.register_at_fork(after_in_child=_Process.after_fork)
# Exit handlers run last first: those of whoever imports this may still read.
atexit.register(_Process.before_exit)


class _UnnamableKeyError(StoreError):
    """A listing holds a key that obstore has no name for, and refuses whole."""


class ObstoreClient:
    """obstore's calls, as `pcrstore.storage.remote.Client`.

    Args:
        obstore: The module, which is optional.
        store: The bucket.
        root: Folder in the bucket, without slashes around it; `""` is the bucket itself.
    """

    can_list = True
    create_is_atomic = True
    resends = False

    def __init__(self, obstore: ModuleType, store: "ObjectStore", root: str) -> None:
        self._obstore = obstore
        self._store = store
        self._root = root

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Return what a coroutine returns, run on fsspec's loop.

        That is one I/O thread per process, made anew after a fork.
        """
        return _calls.run(get_loop(), work)

    async def get(self, name: str, max_bytes: int) -> bytes:
        """Return a whole object, after a look at the size in the head of the reply."""
        reply = await _calls.hold(self._obstore.get_async(self._store, self._path(name)))
        if reply.meta["size"] > max_bytes:
            raise TooLargeError(reply.meta["size"])
        return bytes(await _calls.hold(reply.bytes_async()))

    async def get_range(self, wanted: ByteRange) -> bytes:
        """Return the bytes of a range."""
        path, start, stop = self._path(wanted.name), wanted.start, wanted.stop
        return bytes(
            await _calls.hold(
                self._obstore.get_range_async(self._store, path, start=start, end=stop)
            )
        )

    async def list(self, folder: str) -> Entries:
        """Return every object below a folder.

        obstore cuts the slash from the end of a key: markers of folders look like empty objects.

        Raises:
            _UnnamableKeyError: There is a key such as `a//b.jpg`.
        """
        path = self._path(folder) if folder else self._root
        # A larger chunk than a page of the service's, so that Python is entered once a page.
        pages = self._obstore.list(self._store, path or None, chunk_size=1000)
        entries: Entries = []
        while True:
            try:
                page = await _calls.hold(anext(pages))
            except StopAsyncIteration:
                return entries
            except self._obstore.exceptions.InvalidPathError as e:
                raise _UnnamableKeyError(f"{folder}: {e}") from e
            entries += (
                Entry(
                    name=str(found["path"]).removeprefix(f"{self._root}/"),
                    n_bytes=found["size"],
                    etag=(found["e_tag"] or "").strip('"') or None,
                )
                for found in page
                if found["path"] != path  # the folder's own marker
            )

    async def size(self, name: str) -> int:
        """Return the size of an object, by a HEAD."""
        found = await _calls.hold(self._obstore.head_async(self._store, self._path(name)))
        return int(found["size"])

    async def is_object(self, entry: Entry) -> bool:
        """Say whether an empty entry is an object: a marker has another name, with a slash."""
        await self.size(entry.name)
        return True

    async def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        await _calls.hold(
            self._obstore.put_async(
                self._store,
                self._path(name),
                _calls.hold(memoryview(data)),
                use_multipart=len(data) > SINGLE_PUT,
                chunk_size=PART,
            )
        )

    async def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists."""
        path = self._path(name)
        try:
            await _calls.hold(
                self._obstore.put_async(
                    self._store, path, _calls.hold(memoryview(data)), mode="create"
                )
            )
        except self._obstore.exceptions.AlreadyExistsError as e:
            if not says_exists(e):
                raise ConflictError from e
            return False
        return True

    async def delete(self, name: str) -> None:
        """Remove an object."""
        await _calls.hold(self._obstore.delete_async(self._store, self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if self._root else name


class ObstoreStore(RemoteStore):
    """A folder of a bucket, read and written by obstore.

    Args:
        url: `s3://`, `gs://` or `az://` URL of the folder.
        options: As for s3fs, gcsfs or adlfs.
        policy: Waits and deadline.

    Raises:
        NotTranslatableError: An option that obstore has no counterpart for.
        MissingDependencyError: obstore is not installed.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object] | None = None,
        *,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._url = url
        self._options = dict(options or {})
        policy = policy or RetryPolicy()
        try:
            self._obstore = import_module("obstore")
        except ImportError as e:
            raise MissingDependencyError(
                "engine='obstore' needs obstore: pip install 'pcrstore[fast]'"
            ) from e
        self._settings = translate_options(url, self._options, os.environ)
        translator = Translator(url, secrets_in(url, self._options), policy)
        super().__init__(self._connect, translator, policy)
        self._through_fsspec = PerProcess(self._connect_fsspec)

    def __reduce__(self) -> tuple[object, ...]:
        # Options are translated anew where the pickle is read, by the environment there.
        return partial(ObstoreStore, policy=self._policy), (self._url, self._options)

    @property
    def needs_boto(self) -> bool:
        """True when only boto3 can find the credentials (~/.aws, instance roles)."""
        return self._settings.boto

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name.

        obstore refuses a whole listing for one key that it has no name for (`a//b.jpg`): fsspec
        then lists the folder.
        """
        try:
            return super().list(prefix)
        except _UnnamableKeyError:
            try:
                client = self._through_fsspec.get()
            except MissingDependencyError as e:
                raise MissingDependencyError(
                    f"cannot list {self.url}: obstore refuses keys with an empty, '.' or '..' "
                    f"part, and there are some; {e}"
                ) from e
            return self._listed(client, check_prefix(prefix))

    def _connect(self) -> Client:
        if not _Process.can_use():
            return self._through_fsspec.get()
        store = _make(self._settings, self._policy, self._translator)
        return ObstoreClient(self._obstore, store, self._settings.root)

    def _connect_fsspec(self) -> Client:
        folder = FsspecFolder(
            self._url, self._options, policy=self._policy, translator=self._translator
        )
        return FsspecClient(folder.here())


def _make(
    settings: ObjectStoreSettings, policy: RetryPolicy, translator: Translator
) -> "ObjectStore":
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
        "retry_config": {"max_retries": 0},  # pcrstore.storage.retry is the only loop
    }
    if settings.boto:
        options["credential_provider"] = _boto_credentials(settings, translator)
    kinds = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
    make: Callable[..., ObjectStore] = getattr(import_module("obstore.store"), kinds[settings.kind])
    try:
        return make(settings.bucket, **options)
    except Exception as e:  # noqa: BLE001 (obstore raises its own, which are no ValueErrors)
        reason = translator.redact(str(e).partition("\n")[0])
        raise OptionError(f"obstore cannot open {translator.url}: {reason}") from None


def _boto_credentials(
    settings: ObjectStoreSettings, translator: Translator
) -> "Boto3CredentialProvider":
    try:
        session = import_module("boto3").Session(profile_name=settings.profile)
        provider = import_module("obstore.auth.boto3").Boto3CredentialProvider
        made: Boto3CredentialProvider = provider(session)
    except Exception as e:
        raise AccessDeniedError(
            f"cannot open {translator.url}: no usable credentials ({e}); give them in "
            "storage_options or the environment, or anon=true for a public bucket"
        ) from e
    return made
