"""The core wing."""

from pcrstore.core.checksum import UID_BYTES, crc32c, place_words, record_seed
from pcrstore.core.hashing import hashes, key_of, uniforms
from pcrstore.core.integers import integer
from pcrstore.core.json_reader import MAX_INT, JsonReader, parse_json
from pcrstore.core.ranges import ByteRange, Coalesced, Request, coalesce, divide, runs_of
from pcrstore.core.reals import real
from pcrstore.core.sizes import parse_size

__all__ = [
    "MAX_INT",
    "UID_BYTES",
    "ByteRange",
    "Coalesced",
    "JsonReader",
    "Request",
    "coalesce",
    "crc32c",
    "divide",
    "hashes",
    "integer",
    "key_of",
    "parse_json",
    "parse_size",
    "place_words",
    "real",
    "record_seed",
    "runs_of",
    "uniforms",
]
