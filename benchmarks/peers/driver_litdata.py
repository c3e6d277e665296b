"""LitData on its chunks, with its own S3 clients: one contestant of `peers`.

Settings: shuffle, its own StreamingDataLoader, persistent workers, two chunks ahead per worker (its
default). Its chunks stay on disk up to a limit that none reaches here.
"""

from collections.abc import Iterable

from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import downloader

from benchmarks.peers.client import Asked, Countable, run
from benchmarks.peers.map_style import batches_of, photos_of
from benchmarks.server.base import BUCKET


def main() -> None:
    """Read epochs."""
    asked = Asked.from_argv()
    # Its obstore refuses plain http unless told, and it has no option to tell it by.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001
    photos_class = photos_of(StreamingDataset, asked)

    def open_loader() -> Iterable[tuple[Countable, object]]:
        photos = photos_class(
            f"s3://{BUCKET}/{asked.dataset}",
            cache_dir=f"{asked.work}/litdata",
            shuffle=True,
            drop_last=False,
            seed=asked.seed,
            max_cache_size="1TB",
            storage_options={
                "endpoint_url": asked.endpoint,
                "aws_access_key_id": "bench",
                "aws_secret_access_key": "bench",
                "region_name": "us-east-1",
            },
        )
        return batches_of(StreamingDataLoader, photos, asked)

    run(asked, open_loader)


if __name__ == "__main__":
    main()
