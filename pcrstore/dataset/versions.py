"""Versions of a dataset: find the newest, read a manifest, commit one exactly once.

    manifests/<version>    a version is visible when its manifest is there, made by one conditional
                           create: of several writers one wins
    latest                 a hint for readers without LIST, written after the commit

Example: two writers commit version 1 at once. One create succeeds. The other writer reads the
manifest that is there: of the same content, it reports that it lost, and no harm was done; of other
content, it raises `DatasetExistsError`. A writer whose reply was lost finds its own id there.
"""

import contextlib
import secrets

from pcrstore.errors import (
    ChecksumError,
    DatasetExistsError,
    FormatError,
    NotFoundError,
    StoreError,
    TransientStoreError,
)
from pcrstore.format import (
    LATEST,
    MANIFESTS,
    MAX_LATEST,
    MAX_MANIFEST,
    Manifest,
    decode_latest,
    decode_manifest,
    encode_latest,
    encode_manifest,
    manifest_name,
    version_of,
)
from pcrstore.storage import ReadableStore, Store

__all__ = [
    "commit",
    "list_versions",
    "new_writer_id",
    "newest_version",
    "read_manifest",
    "write_hint",
]

_MAX_PROBES = 1000
"""Versions that a reader without LIST tries after the hint, one by one, before it gives up."""


def new_writer_id() -> str:
    """Return an id of a writer's attempt, which no other attempt has."""
    return secrets.token_hex(16)


def list_versions(store: ReadableStore) -> list[int]:
    """Return the versions of a dataset, newest first, by one LIST."""
    found = (version_of(e.name) for e in store.list(MANIFESTS))
    return sorted((v for v in found if v is not None), reverse=True)


def newest_version(store: ReadableStore) -> int:
    """Return the newest version; 0 when there is none.

    One LIST; where the store cannot list (https), the `latest` hint and probing forward from it, or
    from version 1 where there is none that can be read.

    Raises:
        StoreError: The store cannot be reached, or can neither list nor has a hint.
    """
    if store.can_list:
        return max(list_versions(store), default=0)
    hint = 0
    with contextlib.suppress(NotFoundError, FormatError):
        hint = decode_latest(store.get(LATEST, max_bytes=MAX_LATEST), where=LATEST)
    for version in range(hint + 1, hint + _MAX_PROBES):
        try:
            store.get(manifest_name(version), max_bytes=MAX_MANIFEST)
        except NotFoundError:
            return version - 1
    raise FormatError(f"{store.url}: the latest hint lags by {_MAX_PROBES} versions or more")


def read_manifest(store: ReadableStore, version: int) -> Manifest:
    """Read one version's manifest, a second time where it comes damaged.

    Raises:
        NotFoundError: No such version.
        FormatError: Damaged or too new.
    """
    name = manifest_name(version)
    where = f"{store.url}: {name}"
    with contextlib.suppress(ChecksumError):
        return decode_manifest(
            store.get(name, max_bytes=MAX_MANIFEST), version=version, where=where
        )
    return decode_manifest(store.get(name, max_bytes=MAX_MANIFEST), version=version, where=where)


def commit(store: Store, manifest: Manifest) -> Manifest:
    """Make a version visible, exactly once.

    Returns:
        The manifest that is visible. Its writer is another one where that committed the same
        content first.

    Raises:
        DatasetExistsError: Another writer committed other content under this version.
        TransientStoreError: The reply was lost, and so was every attempt to read back who won.
    """
    name = manifest_name(manifest.version)
    try:
        if store.create(name, encode_manifest(manifest)):
            write_hint(store, manifest.version)
            return manifest
    except TransientStoreError as e:
        # The create may have succeeded before its reply was lost: the manifest there says.
        with contextlib.suppress(NotFoundError):
            return _settle(store, manifest)
        raise e from None
    return _settle(store, manifest)


def _settle(store: Store, manifest: Manifest) -> Manifest:
    """Return the outcome of a commit by the manifest that is stored under the version's name."""
    there = read_manifest(store, manifest.version)
    if there.writer != manifest.writer and not there.same_content(manifest):
        raise DatasetExistsError(
            f"{store.url}: another writer committed version {manifest.version} with other content"
        )
    write_hint(store, manifest.version)  # the winner may have died before writing it
    return there


def write_hint(store: Store, version: int) -> None:
    """Write the hint for readers without LIST, unless one as new is there.

    A writer that dies between its commit and this has committed all the same: readers that can LIST
    find the version, and the next run writes the hint.
    """
    with contextlib.suppress(StoreError, FormatError):
        if decode_latest(store.get(LATEST, max_bytes=MAX_LATEST), where=LATEST) >= version:
            return
    with contextlib.suppress(StoreError):
        store.put(LATEST, encode_latest(version))
