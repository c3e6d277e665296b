"""Values that every wing needs: arguments, hashes, checksums, byte ranges and JSON.

    arguments    numbers and sizes that callers give
    hashing      random numbers as functions of (seed, epoch, image)
    checksum     CRC32C, bound to the place of its bytes
    ranges       half-open byte ranges, merged into requests
    typed_json   structs from and to JSON that may be hostile, by their annotations

All is pure, and no module imports another.

An example: three ranges of one object, of which two are near enough to be one request.

    >>> wanted = [ByteRange("a", 0, 10), ByteRange("a", 14, 20), ByteRange("a", 90, 95)]
    >>> requests = coalesce(wanted, max_gap=4, max_size=99).requests
    >>> [(request.range.start, request.range.stop, request.members) for request in requests]
    [(0, 20, (0, 1)), (90, 95, (2,))]

Bytes 10 to 14 are downloaded for nothing, which is cheaper than one more request.
"""

from pcrstore.core.arguments import integer, parse_size, real
from pcrstore.core.checksum import UID_BYTES, crc32c, place_words, record_seed
from pcrstore.core.hashing import hashes, key_of, uniforms
from pcrstore.core.ranges import ByteRange, Coalesced, Request, coalesce, divide, runs_of
from pcrstore.core.typed_json import (
    MAX_INT,
    Count,
    ObjectName,
    Stored,
    Uid,
    Word,
    decode_json,
    encode_json,
    refuse,
    require_few_values,
)

__all__ = [
    "MAX_INT",
    "UID_BYTES",
    "ByteRange",
    "Coalesced",
    "Count",
    "ObjectName",
    "Request",
    "Stored",
    "Uid",
    "Word",
    "coalesce",
    "crc32c",
    "decode_json",
    "divide",
    "encode_json",
    "hashes",
    "integer",
    "key_of",
    "parse_size",
    "place_words",
    "real",
    "record_seed",
    "refuse",
    "require_few_values",
    "runs_of",
    "uniforms",
]
