"""ray."""

from pcrstore.ray.datasource import PcrstoreDatasource, Predicate, read_pcrstore

__all__ = ["PcrstoreDatasource", "Predicate", "read_pcrstore"]
