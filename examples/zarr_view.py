"""Read a dataset's scan groups as Zarr arrays.

    python examples/zarr_view.py DATASET

A dataset of the zarr layout is a plain Zarr v3 group; one of the record layout is shown as one.
"""

import io
import sys

from PIL import Image

from pcrstore.zarr_view import zarr_view


def main(url: str) -> None:
    """Put together the first image at every fidelity, from arrays alone."""
    group = zarr_view(url)
    offsets = group["image_offsets"][:2]
    jpeg = b""
    for g in range(offsets.shape[1] - 1):
        start, stop = int(offsets[0, g]), int(offsets[1, g])
        jpeg += group[f"group_{g + 1}"][start:stop].tobytes()
        with Image.open(io.BytesIO(jpeg + b"\xff\xd9")) as image:
            image.load()
            print(f"fidelity {g + 1}: {len(jpeg) + 2} bytes, {image.width} x {image.height}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
