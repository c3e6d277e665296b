"""Options of a conversion: everything that decides the stored bytes, but the source itself."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from pcrstore.conversion.texts import unicode_name
from pcrstore.core import integer
from pcrstore.errors import OptionError
from pcrstore.format import CHUNK_BYTES
from pcrstore.jpeg import DEFAULT_LIMITS, Limits, Script, builtin, parse_script

__all__ = ["OBJECT_BYTES", "POLICIES", "RECORD_BYTES", "Options"]

POLICIES: Final = ("raise", "skip", "opaque", "encode")
"""Ways to deal with a file that cannot be kept losslessly: convert nothing, leave the file out,
store it as it is, or encode its pixels as a JPEG and keep the original beside it."""

RECORD_BYTES: Final = 4 * 2**20
"""About 40 ImageNet photos or 140 small ones: a prefix of 0.3 to 1.6 MB at fidelity 1 to 3, which
16 requests in flight turn into a full link; see docs/decisions.md for the measurement."""

OBJECT_BYTES: Final = 128 * 2**20
"""1,150 objects for ImageNet: few enough to LIST in two requests, small enough to resume by."""

_WRITER_VERSION: Final = "2"
"""Part of the conversion id: raise it when the same input gives other stored bytes."""

_BOUNDS: Final = {
    "record_bytes": (1, 2**30),
    "record_images": (1, 2**53),
    "object_bytes": (1, 2**30),
    "chunk_bytes": (1, 2**30),
    "hold_bytes": (0, 2**53),
    "encode_quality": (1, 100),
    "seed": (-(2**63), 2**63 - 1),
}
"""Least and greatest value of each integer option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a conversion. The defaults suit photos on an object store."""

    layout: str = "record"
    script: str = "sa5"
    """Name of a built-in script, or a script's text."""
    record_bytes: int | None = RECORD_BYTES
    """Largest sum of source bytes in a record; one image may exceed it alone. None: no limit."""
    record_images: int | None = None
    """Largest number of images in a record. `record_bytes` still holds: for 30 images a record
    of whatever size pass `record_bytes=None` too, as --record-images does on the command line."""
    object_bytes: int = OBJECT_BYTES
    chunk_bytes: int = CHUNK_BYTES
    """Approximate size of a chunk of the scan group arrays in the zarr layout."""
    hold_bytes: int = 2**28
    """Sources up to this size are held in memory in the zarr layout, so that no chunk is padded."""
    policy: str = "raise"
    """Treatment of a file that cannot be transcoded losslessly: `raise`, `skip`, `opaque` or
    `encode`."""
    encode_quality: int = 95
    """JPEG quality of policy `encode`."""
    split_dirs: bool = False
    """True for a source folder SPLIT/CLASS/image; loaders then take `where={"split": "train"}`."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of their ids; new classes of the source follow in order of name."""
    shuffle: bool = True
    seed: int = 0
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        """Check every field; integers of any kind become Python's."""
        if self.layout not in ("record", "zarr"):
            raise OptionError(f"layout must be record or zarr, got {self.layout!r}")
        for name, kind in (("script", str), ("limits", Limits)):
            if not isinstance(getattr(self, name), kind):
                raise OptionError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        if self.limits.max_bytes > DEFAULT_LIMITS.max_bytes:
            raise OptionError(
                f"limits.max_bytes must be at most {DEFAULT_LIMITS.max_bytes}, the most that a "
                f"restore blob holds, got {self.limits.max_bytes}"
            )
        if self.policy not in POLICIES:
            raise OptionError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None or name not in ("record_bytes", "record_images"):
                object.__setattr__(self, name, integer(value, name, least=least, most=most))
        if self.record_bytes is None and self.record_images is None:
            raise OptionError("records need a size: record_bytes or record_images")
        if self.classes is not None:
            object.__setattr__(self, "classes", _class_tuple(self.classes))

    def parsed_script(self) -> Script:
        """Return the scan script."""
        return parse_script(self.script) if "[" in self.script else builtin(self.script)

    @property
    def policy_id(self) -> str:
        """Text that is equal for policies which store the same bytes, such as `encode95`."""
        return f"encode{self.encode_quality}" if self.policy == "encode" else self.policy

    def describe(self) -> dict[str, str]:
        """Return the options that decide the stored bytes, but for the policy, as text."""
        return {
            "layout": self.layout,
            "script": self.parsed_script().text,
            "record_bytes": str(self.record_bytes),
            "record_images": str(self.record_images),
            "object_bytes": str(self.object_bytes),
            "encode_quality": str(self.encode_quality),
            "split_dirs": str(self.split_dirs),
            "classes": "" if self.classes is None else _digest(self.classes),
            "shuffle": str(self.shuffle),
            "seed": str(self.seed),
            "limits": " ".join(str(getattr(self.limits, f.name)) for f in fields(self.limits)),
            "chunk_bytes": f"{self.chunk_bytes} {self.hold_bytes}",
            "writer_version": _WRITER_VERSION,
        }


def _class_tuple(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(n, str) for n in names):
        raise OptionError(f"classes must be a sequence of names, got {names!r}"[:200])
    seen: set[str] = set()
    for name in names:
        if unicode_name(name) != name:
            raise OptionError(f"classes must be Unicode text, got {name!r}"[:200])
        if name in seen:
            raise OptionError(f"classes must be distinct, got {name!r} twice")
        seen.add(name)
    return tuple(names)


def _digest(names: Sequence[str]) -> str:
    """Return a hash of class names: a manifest lists them anyway, and there may be many."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()
