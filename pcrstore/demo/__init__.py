"""The demo: a conversion, its fidelities and one original, on this machine alone and in seconds.

    images    JPEG files of a folder, or photos of scikit-image and generated images
    bucket    an S3 server in this process
    run       images ──convert──▶ bucket ──range reads──▶ bytes by fidelity, contact sheet, original

Everything is real but the cloud: the code, HTTP and range requests are those of a bucket elsewhere.
Nothing is left behind but the contact sheet, unless `keep` names a folder.

Example: 39 images of 5 scan groups make 5 rows of a table, one for the bytes and requests of
reading all of them at each fidelity.
"""

from pcrstore.demo.run import DemoReport, run_demo

__all__ = [
    "DemoReport",
    "run_demo",
]
