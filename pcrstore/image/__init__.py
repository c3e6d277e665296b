"""The image wing."""

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
