"""The cost wing."""

from pcrstore.cost.model import DEFAULT_COST, CostModel, Link, Prices, break_even_gap

__all__ = [
    "DEFAULT_COST",
    "CostModel",
    "Link",
    "Prices",
    "break_even_gap",
]
