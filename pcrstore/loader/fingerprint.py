"""The data that a state is of: a state may be resumed where the fingerprint is the same."""

from pcrstore.core import crc32c
from pcrstore.loader.options import ReadSettings
from pcrstore.sampling import SampleSet

__all__ = ["fingerprint_of"]


def fingerprint_of(sample_set: SampleSet, settings: ReadSettings) -> dict[str, object]:
    """Return all that the order of epochs depends on, in JSON types."""
    sources = sample_set.sources
    selected = [s.positions for s in sources if s.positions is not None]
    return {
        "seed": settings.seed,
        "shuffle": settings.shuffle,
        "shuffle_window": settings.shuffle_window,
        "versions": [s.dataset.version for s in sources],
        "images": [len(s.dataset) for s in sources],
        "selected": [len(s) for s in sources],
        "selection": crc32c(b"".join(p.astype("<i8").tobytes() for p in selected)),
        "counts": list(sample_set.counts),
        "parts": crc32c(b"".join(p.uid for s in sources for p in s.dataset.manifest.parts)),
    }
