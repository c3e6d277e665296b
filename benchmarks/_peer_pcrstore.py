"""pcrstore's loader: one contestant of `peers`, at any fidelity, by threads or by workers.

Settings: the defaults but for what is asked. The second epoch reads again unless `cached`.
"""

import numpy as np

from benchmarks._client import BUCKET, Asked, run
from pcrstore import pixels
from pcrstore.shape import Shape
from pcrstore.torch import Loader


def as_it_is(data: bytes, shape: Shape, _rows: int, _scale: int) -> tuple[bytes, Shape]:
    """Leave a JPEG as it is."""
    return data, shape


def main() -> None:
    """Read epochs."""
    asked = Asked.from_argv()
    if asked.every_row:
        pixels.first_rows = as_it_is
    options: dict[str, object] = {"endpoint_url": asked.endpoint, "key": "bench", "secret": "bench"}

    def open_loader() -> Loader:
        return Loader(
            f"s3://{BUCKET}/{asked.dataset}",
            batch_size=asked.batch_size,
            fidelity=asked.fidelity or "full",
            size=asked.size,
            seed=asked.seed,
            num_workers=asked.num_workers,
            n_threads=asked.n_threads,
            storage_options=options,
            select=np.arange(asked.n_images) if asked.n_images else None,
            cache=f"{asked.work}/pcrstore" if asked.cached else None,
            **asked.more,
        )

    run(asked, open_loader)


if __name__ == "__main__":
    main()
