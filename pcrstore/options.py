"""How to convert: everything that decides the stored bytes, but the source itself."""

import json
from dataclasses import dataclass
from typing import Final

from pcrstore.build import POLICIES
from pcrstore.errors import OptionError
from pcrstore.scripts import Script, builtin, parse_script
from pcrstore.transcode import DEFAULT_LIMITS, Limits
from pcrstore.zarr_layout import CHUNK_BYTES

__all__ = ["Options"]

RECORD_BYTES: Final = 4 * 2**20
"""About 40 ImageNet photos or 140 small ones: a prefix of 0.3 to 1.6 MB at fidelity 1 to 3, which
16 requests in flight turn into a full link; see docs/decisions.md for the measurement."""

OBJECT_BYTES: Final = 128 * 2**20
"""1,150 objects for ImageNet: few enough to LIST in two requests, small enough to resume by."""

_WRITER_VERSION: Final = "1"
"""Part of the conversion id: raise it when the same input gives other stored bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to convert. Defaults suit photos on an object store."""

    layout: str = "record"
    script: str = "sa5"
    """Name of a built-in script, or a script's text."""
    record_bytes: int | None = RECORD_BYTES
    record_images: int | None = None
    object_bytes: int = OBJECT_BYTES
    chunk_bytes: int = CHUNK_BYTES
    """About what a chunk of the scan group arrays has in the zarr layout."""
    hold_bytes: int = 2**28
    """Sources up to this size are held in memory in the zarr layout, so that no chunk is padded."""
    policy: str = "raise"
    """What to do with a file that cannot be transcoded losslessly; one of `build.POLICIES`."""
    encode_quality: int = 95
    """JPEG quality of policy `encode`."""
    split_dirs: bool = False
    classes: tuple[str, ...] | None = None
    """Class names in the order of their ids; classes not in it are added to its end."""
    shuffle: bool = True
    seed: int = 0
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        if self.layout not in ("record", "zarr"):
            raise OptionError(f"layout must be record or zarr, got {self.layout!r}")
        if self.policy not in POLICIES:
            raise OptionError(f"on-error must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        sizes = {"record bytes": self.record_bytes, "record images": self.record_images}
        for name, value in {
            **sizes,
            "object bytes": self.object_bytes,
            "chunk bytes": self.chunk_bytes,
        }.items():
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")
        if self.record_bytes is None and self.record_images is None:
            raise OptionError("records need a size: record bytes or record images")
        if max(self.record_bytes or 0, self.object_bytes) > 2**30:
            raise OptionError("records and objects have at most 1 GiB")
        if not 1 <= self.encode_quality <= 100:
            raise OptionError(f"encode quality must be in 1..100, got {self.encode_quality}")
        if not -(2**63) <= self.seed < 2**63:
            raise OptionError(f"seed must fit in 64 bits, got {self.seed}")

    def parsed_script(self) -> Script:
        """Return the scan script."""
        return parse_script(self.script) if "[" in self.script else builtin(self.script)

    def describe(self) -> dict[str, str]:
        """Return what decides the stored bytes, but for the policy, as text."""
        return {
            "layout": self.layout,
            "script": self.parsed_script().text,
            "record_bytes": str(self.record_bytes),
            "record_images": str(self.record_images),
            "object_bytes": str(self.object_bytes),
            "encode_quality": str(self.encode_quality),
            "split_dirs": str(self.split_dirs),
            "classes": json.dumps(self.classes),
            "shuffle": str(self.shuffle),
            "seed": str(self.seed),
            "limits": f"{self.limits.max_bytes} {self.limits.max_pixels} {self.limits.max_scans}",
            "chunk_bytes": f"{self.chunk_bytes} {self.hold_bytes}",
            "writer_version": _WRITER_VERSION,
        }
