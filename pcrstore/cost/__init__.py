"""Cost: the price and duration of reads, by which ranges are merged and plans are priced.

    Prices, Link ──▶ CostModel ──▶ dollars and seconds of (requests, bytes)
                              └──▶ break_even_gap: bytes worth reading to save a request

Pure: the model is given its prices and its link, and measures nothing. The stored format does not
depend on it.

Example: $4e-7 a request, $9e-11 a byte, and time that costs nothing.

    >>> prices = Prices(name="example", per_get=4e-7, per_byte=9e-11, source="made up")
    >>> link = Link(bandwidth=100e6, per_connection=50e6, latency=0.05, concurrency=4)
    >>> model = CostModel(prices=prices, link=link, per_second=0.0)
    >>> break_even_gap(model)  # 4e-7 / 9e-11
    4444
    >>> model.seconds(5, 0), model.seconds(4, 100_000_000)
    (0.1, 1.05)
"""

from pcrstore.cost.model import DEFAULT_COST, CostModel, Link, Prices, break_even_gap

__all__ = [
    "DEFAULT_COST",
    "CostModel",
    "Link",
    "Prices",
    "break_even_gap",
]
