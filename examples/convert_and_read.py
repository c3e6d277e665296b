"""Convert a folder of photos, read it at every fidelity, and get one original back.

    python examples/convert_and_read.py PHOTOS DATASET

PHOTOS is a class-per-folder tree and DATASET where to put the dataset; both are paths or URLs.
"""

import sys

import pcrstore


def main(photos: str, url: str) -> None:
    """Convert, then read."""
    report = pcrstore.convert(photos, url, pcrstore.Options(policy="skip"))
    print(f"{report.n_images} images, {report.source_bytes} -> {report.stored_bytes} bytes")
    for problem in report.problems:
        print(f"{problem.outcome}: {problem.key}: {problem.reason}")

    ds = pcrstore.open(url)
    for k in range(1, ds.n_groups + 1):
        before = ds.traffic
        n = sum(1 for _ in ds.iter(fidelity=k))
        after = ds.traffic
        requests = after.data_requests - before.data_requests
        n_bytes = after.data_bytes - before.data_bytes
        print(f"fidelity {k}: {n} images by {requests} requests, {n_bytes} bytes")

    [pixels] = ds.read([0], fidelity=2, scale=2)
    [file] = ds.fetch([0], fidelity="original")
    print(f"{ds.keys[0]}: {pixels.shape} at half size, {len(file)} bytes as it was")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
