"""MosaicML Streaming on MDS shards, with its own S3 client: one contestant of `peers`.

Settings: shuffle (py1e, its default) in blocks of 2,000 samples, for its default of 262,144 is more
than an epoch here and would fetch all of it before the first batch; num_canonical_nodes 1 (one
node); predownload 8 batches (its default); batch_size given to the dataset as its documentation
asks; persistent workers. Its shards stay on disk, so that the second epoch asks for nothing.
"""

import importlib
import os
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType
from typing import Final

from torch.utils.data import DataLoader

from benchmarks.peers.client import Asked, Countable, run
from benchmarks.peers.map_style import batches_of, photos_of
from benchmarks.server.base import BUCKET

_STAND_IN: Final = {
    "torchvision": ("datasets", "transforms"),
    "torchvision.datasets": ("VisionDataset",),
    "torchvision.transforms.functional": ("to_tensor",),
}


def import_streaming() -> ModuleType:
    """Import streaming, which imports torchvision for data sets that are not used here.

    A torchvision built for CUDA cannot be imported beside a torch for CPUs; it is then stood for.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        for name, contents in _STAND_IN.items():
            module = module_from_spec(ModuleSpec(name, None))
            vars(module).update(dict.fromkeys(contents, object))
            sys.modules[name] = module
    return importlib.import_module("streaming")


def main() -> None:
    """Read epochs."""
    asked = Asked.from_argv()
    os.environ["S3_ENDPOINT_URL"] = asked.endpoint
    streaming = import_streaming()
    streaming.base.util.clean_stale_shared_memory()  # of an earlier run that was killed
    photos_class = photos_of(streaming.StreamingDataset, asked)

    def open_loader() -> Iterable[tuple[Countable, object]]:
        photos = photos_class(
            remote=f"s3://{BUCKET}/{asked.dataset}",
            local=f"{asked.work}/mds",
            shuffle=True,
            shuffle_seed=asked.seed,
            shuffle_block_size=2000,
            num_canonical_nodes=1,
            batch_size=asked.batch_size,
        )
        # It has fetched the index, and the workers are forked: they would read each other's answers
        # on its client's connection, and without TLS nothing would notice but the decoder.
        for stream in photos.streams:
            stream._downloader.clean_up()  # noqa: SLF001
        return batches_of(DataLoader, photos, asked)

    run(asked, open_loader)


if __name__ == "__main__":
    main()
