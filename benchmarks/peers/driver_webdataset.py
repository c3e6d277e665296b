"""WebDataset on tar shards through `pipe:curl`: one contestant of `peers`.

Settings: shards shuffled (100) and samples in a buffer of 1,000, as its documentation shows;
batches made in the workers; two workers split the shards, whose number is even; persistent workers.
It keeps nothing, so that the second epoch reads as the first.
"""

import torch
import webdataset as wds
from torch.utils.data import default_collate

from benchmarks.peers.client import Asked, run
from benchmarks.peers.transform import Transform
from benchmarks.server.base import BUCKET


def main() -> None:
    """Read epochs."""
    asked = Asked.from_argv()
    transform = Transform(asked.size)
    last = int(str(asked.more["n_shards"])) - 1
    shards = f"shard-{{000000..{last:06d}}}.tar"
    urls = f"pipe:curl -s -L {asked.endpoint}/{BUCKET}/{asked.dataset}/{shards}"

    def row(jpeg: bytes) -> torch.Tensor:
        return torch.from_numpy(transform(jpeg))

    def open_loader() -> wds.WebLoader:
        photos = (
            wds.WebDataset(urls, shardshuffle=100, seed=asked.seed)
            .shuffle(1000)
            .to_tuple("jpg", "cls")
            .map_tuple(row, int)
            .batched(asked.batch_size, collation_fn=default_collate, partial=True)
        )
        return wds.WebLoader(
            photos, batch_size=None, num_workers=asked.num_workers, persistent_workers=True
        )

    run(asked, open_loader)


if __name__ == "__main__":
    main()
