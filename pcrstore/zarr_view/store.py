"""A read-only Zarr store over a dataset, for Zarr's asynchronous interface.

Values are read in threads: stores of pcrstore are synchronous, and Zarr's event loop must not wait.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NoReturn

from pcrstore.dataset import Dataset, open_dataset
from pcrstore.errors import MissingDependencyError
from pcrstore.format import CHUNK_BYTES
from pcrstore.zarr_view.keys import keys_of

try:
    import zarr
    from zarr.abc.store import (
        ByteRequest,
        OffsetByteRequest,
        RangeByteRequest,
        Store,
        SuffixByteRequest,
    )
    from zarr.core.buffer import Buffer, BufferPrototype
except ImportError as e:
    raise MissingDependencyError(
        "a Zarr view needs the zarr package: pip install 'pcrstore[zarr]'"
    ) from e

__all__ = ["ZarrStore", "zarr_view"]


def zarr_view(
    url_or_dataset: str | Dataset, storage_options: Mapping[str, object] | None = None
) -> zarr.Group:
    """Return a dataset as a read-only Zarr group.

    Args:
        url_or_dataset: URL of the dataset, or the dataset opened (a version of it, say).
        storage_options: As for `pcrstore.open`, for a URL.

    Returns:
        The group: `group_1` .. `group_G`, `restore`, `record_first_image`, `image_offsets`,
        `image_checksums`, `opaque`, `labels`, `key_bytes`, `key_offsets`; see FORMAT.md, 5.

    Raises:
        StoreError: The store cannot be reached.
        FormatError: The manifest or an index part is damaged.
    """
    ds = (
        open_dataset(url_or_dataset, storage_options)
        if isinstance(url_or_dataset, str)
        else url_or_dataset
    )
    return zarr.open_group(store=ZarrStore(ds), mode="r", zarr_format=3)


class ZarrStore(Store):
    """A read-only Zarr store over a dataset of either layout.

    Args:
        dataset: The dataset.
        chunk_bytes: Largest chunk of the arrays that are made up of records. A dataset in zarr
            layout has chunks of its own.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, dataset: Dataset, chunk_bytes: int = CHUNK_BYTES) -> None:
        super().__init__(read_only=True)
        self._dataset = dataset
        self._chunk_bytes = chunk_bytes
        self._keys = keys_of(dataset, chunk_bytes)

    def __reduce__(self) -> tuple[type["ZarrStore"], tuple[Dataset, int]]:
        return ZarrStore, (self._dataset, self._chunk_bytes)

    def __repr__(self) -> str:
        return f"ZarrStore({self._dataset!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrStore) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, int, int]:
        return self._dataset.url, self._dataset.version, self._chunk_bytes

    def with_read_only(self, read_only: bool = False) -> "ZarrStore":  # noqa: FBT001, FBT002 - zarr's
        """Return this store: there is no other kind."""
        if not read_only:
            self._refuse()
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a value or some of its bytes; None when there is no such key."""
        data = await asyncio.to_thread(self._get, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _get(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        size = self._keys.size(key)
        if size is None:
            return None
        start, stop = 0, size
        if isinstance(wanted, RangeByteRequest):
            start, stop = wanted.start, wanted.end
        elif isinstance(wanted, OffsetByteRequest):
            start = wanted.offset
        elif isinstance(wanted, SuffixByteRequest):
            start = size - wanted.suffix
        start = min(max(start, 0), size)
        return self._keys.read(key, start, min(max(stop, start), size))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return some bytes of several values."""
        return await asyncio.gather(*(self.get(k, prototype, r) for k, r in key_ranges))

    async def exists(self, key: str) -> bool:
        """Say whether there is such a key."""
        return await asyncio.to_thread(self._keys.size, key) is not None

    async def getsize(self, key: str) -> int:
        """Return the length of a value in bytes."""
        size = await asyncio.to_thread(self._keys.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        for key in await asyncio.to_thread(self._keys.names):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that start with `prefix`."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names right below the folder `prefix`."""
        folder = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        keys = await asyncio.to_thread(self._keys.names)
        below = (k.removeprefix(folder).split("/")[0] for k in keys if k.startswith(folder))
        for name in dict.fromkeys(below):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Raise `ValueError`: the store is read-only."""
        del key, value
        self._refuse()

    async def delete(self, key: str) -> None:
        """Raise `ValueError`: the store is read-only."""
        del key
        self._refuse()

    def _refuse(self) -> NoReturn:
        # ValueError is what zarr's own stores raise, by `_check_writable`.
        raise ValueError(f"{self!r} is read-only: convert to make a dataset")
