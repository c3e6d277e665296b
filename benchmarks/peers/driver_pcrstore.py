"""pcrstore's loader: one contestant of `peers`, at any fidelity, by threads or by workers.

Settings: the defaults but for what is asked. The second epoch reads again unless `cached`.
"""

from contextlib import nullcontext

import numpy as np

from benchmarks.peers.client import Asked, every_row, run
from benchmarks.server.base import BUCKET, options_of
from pcrstore.torch import Loader


def main() -> None:
    """Read epochs."""
    asked = Asked.from_argv()

    def open_loader() -> Loader:
        return Loader(
            f"s3://{BUCKET}/{asked.dataset}",
            batch_size=asked.batch_size,
            fidelity=asked.fidelity or "full",
            size=asked.size,
            seed=asked.seed,
            num_workers=asked.num_workers,
            n_threads=asked.n_threads,
            storage_options=options_of(asked.endpoint),
            select=np.arange(asked.n_images) if asked.n_images else None,
            cache=f"{asked.work}/pcrstore" if asked.cached else None,
            **asked.more,
        )

    with every_row() if asked.every_row else nullcontext():
        run(asked, open_loader)


if __name__ == "__main__":
    main()
