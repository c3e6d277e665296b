"""Bounds of a stream: bytes, requests and batches in progress, and how work is grouped."""

from dataclasses import dataclass

__all__ = ["StreamLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Bounds of one stream. The defaults were measured; users set `prefetch` alone."""

    part_bytes: int = 2 * 2**20
    """A record prefix longer than this is read by several requests at once. Then few records are in
    flight at a time and the first of them arrives soon; one connection to S3 gives 85 MB/s."""
    task_bytes: int = 2**20
    """Bytes of records in one task: with 16 tasks in flight, a megabyte each fills a link."""
    n_fetchers: int = 16
    """Threads that fetch."""
    in_flight_bytes: int = 16 * 2**20
    """Bytes in flight at a time: they fill 1 Gbit/s at a latency of 100 ms. More would make all of
    them arrive at once, so that decoders wait for the link, and then the link for decoders."""
    first_at_once: int = 4
    """Fetches in flight, at the start of a stream, beside which nothing is requested that no sample
    waits for yet; each fetch that is done allows one more. Sixteen fetches that begin together
    arrive together: at fidelity 1 and 200 Mbit/s decoders waited 0.7 s for their second batch, on
    a link that brings three times what they decode."""
    first_headers: int = 64
    """Records whose headers are read first, where the index holds headers. Then as many again are
    read, and so on: the first batch must not wait for the headers of a whole shard."""
    most_headers: int = 4096
    """Most records whose headers are read at once; the index reader caches four times as many."""
    drawn_at_once: int = 1024
    """Samples whose crops are drawn together. For the samples of one batch, calling NumPy would
    cost ten times as much as computing."""
    trim_after: int = 2**28
    """Bytes of files after which free memory is returned to the system. It costs 5 ms, and twice as
    much to get memory again, in some ten seconds of decoding."""
    batches_ready: int = 4
    """Batches that are decoded, or being decoded, before the consumer takes them."""
    quick_seconds: float = 0.1
    """A first batch that arrives sooner than this came over a fast link, which can wait for the
    decoders: reading ahead pauses while they decode it, because it would take cores from them."""
    alone_seconds: float = 0.2
    """Longest pause of reading ahead while the first batch is decoded."""
