"""The price and the duration of requests and bytes, and the gap that is worth reading over.

Pure. One model prices a plan and sets the gap up to which ranges are merged.

R requests of latency T and N bytes, on a link of B bytes/s of which one connection reaches b at
most, with c = min(C, R) of C possible requests in flight, take

    seconds = ceil(R / c) * T + N / (c * min(b, B / c))

Two ranges that lie g bytes apart are merged where reading the gap costs less than a request. A
second of the machine costs v dollars, shared by its C requests in flight; one of C busy connections
reaches b_eff = min(b, B / C) bytes/s, and so

    g * (p_byte + (v / C) / b_eff)  <  p_get + (v / C) * T

Example: 100 MB/s, 50 MB/s a connection, 50 ms, C = 4, and time alone costs something. 5 requests of
no bytes take two waves of latency, 0.1 s. b_eff is 25 MB/s, so 50 ms are worth 1.25 MB of gap.
"""

from dataclasses import dataclass

__all__ = ["DEFAULT_COST", "CostModel", "Link", "Prices", "break_even_gap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A price list, in dollars."""

    name: str
    per_get: float
    """Dollars per GET request."""
    per_byte: float
    """Dollars per byte out of the store to this reader."""
    source: str
    """URL that the prices were read from, and the month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network path between a reader and a store."""

    bandwidth: float
    """Bytes per second over all connections."""
    per_connection: float
    """Bytes per second of one connection at most."""
    latency: float
    """Seconds from sending a request to the first byte of its answer."""
    concurrency: int
    """Number of requests in flight."""

    @property
    def effective(self) -> float:
        """Bytes per second of one of `concurrency` busy connections."""
        return min(self.per_connection, self.bandwidth / self.concurrency)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Prices, a link, and the price of a second of waiting."""

    prices: Prices
    link: Link
    per_second: float
    """Dollars per second of the machine that waits."""
    max_request: int = 16 * 2**20
    """Largest merged request in bytes: 8 to 16 MB is S3's own advice, and more adds no speed."""

    def dollars(self, n_requests: int, n_bytes: int) -> float:
        """Return the price of some requests and bytes, as the store bills them."""
        return n_requests * self.prices.per_get + n_bytes * self.prices.per_byte

    def seconds(self, n_requests: int, n_bytes: int) -> float:
        """Return the duration of some requests and bytes, `link.concurrency` at a time."""
        if n_requests == 0:
            return 0.0
        busy = min(self.link.concurrency, n_requests)
        rate = busy * min(self.link.per_connection, self.link.bandwidth / busy)
        return -(-n_requests // busy) * self.link.latency + n_bytes / rate


def break_even_gap(model: CostModel) -> int:
    """Return the widest gap, in bytes, that is cheaper to download than to avoid by a request.

    Source: the inequality in this module's docstring, checked against measured break-even points
    of 2 MB, 0.5 to 1 MB and 64 to 128 kB at 4, 16 and 64 requests in flight.
    """
    v = model.per_second / model.link.concurrency
    saved = model.prices.per_get + v * model.link.latency
    per_byte = model.prices.per_byte + v / model.link.effective
    return int(saved / per_byte) if per_byte > 0 else model.max_request


DEFAULT_COST = CostModel(
    prices=Prices(
        name="S3 Standard, same region",
        per_get=0.0004 / 1000,
        per_byte=0.0,
        source="https://aws.amazon.com/s3/pricing/, 2026-11",
    ),
    link=Link(bandwidth=125e6, per_connection=85e6, latency=0.03, concurrency=16),
    per_second=3.0 / 3600,
)
"""A one-GPU machine (about $3 an hour) on 1 Gbit/s to S3 in its own region, 16 GETs in flight."""
