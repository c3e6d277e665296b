"""The sampling wing."""

from pcrstore.sampling.lookup import Leaflet, Mix, Population, Source, Unit, mix_of
from pcrstore.sampling.order import MAX_EPOCH, EpochOrder, Stretch, crop_keys, skip
from pcrstore.sampling.sharding import Leg, Topology, Uneven

__all__ = [
    "MAX_EPOCH",
    "EpochOrder",
    "Leaflet",
    "Leg",
    "Mix",
    "Population",
    "Source",
    "Stretch",
    "Topology",
    "Uneven",
    "Unit",
    "crop_keys",
    "mix_of",
    "skip",
]
