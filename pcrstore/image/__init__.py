"""Pixels of images: decoding, crops, rows of a batch, and the similarity of two images.

    bytes ──decoder──▶ (height, width, 3) ──────────────────▶ `Dataset.read`
      └────rendering: crops chooses a box, decoder decodes it at 1, 1/2, 1/4 or 1/8,
           Pillow resizes it ──▶ (224, 224, 3), a row of a batch ──▶ loaders
    grey pixels, twice ──similarity──▶ MS-SSIM, 0 to 1 ──▶ conversion

A JPEG gives the same pixels with simplejpeg and with Pillow. No image is decoded before its pixels
and scans are counted. `crops` and `similarity` are pure; decoding releases the GIL.

An example: of an image of 500 x 375 pixels the usual crop of validation is a square of 224 / 256 of
the shorter side, in the middle; no number is drawn for it.

    >>> box = CenterCrop().box(500, 375, ())
    >>> box.left, box.top, box.right - box.left
    (85.9375, 23.4375, 328.125)

At 112 x 112 pixels it is decoded at 1/2, where it has 164 pixels a side, and then resized.
"""

from pcrstore.image.crops import CenterCrop, Crop, RandomResizedCrop, Squash
from pcrstore.image.decoder import decode, open_plain
from pcrstore.image.rendering import Rendering, render
from pcrstore.image.similarity import ms_ssim

__all__ = [
    "CenterCrop",
    "Crop",
    "RandomResizedCrop",
    "Rendering",
    "Squash",
    "decode",
    "ms_ssim",
    "open_plain",
    "render",
]
