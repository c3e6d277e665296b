"""The core wing."""

from pcrstore.core.arguments import integer, parse_size, real
from pcrstore.core.checksum import UID_BYTES, crc32c, place_words, record_seed
from pcrstore.core.hashing import hashes, key_of, uniforms
from pcrstore.core.json_codec import (
    MAX_INT,
    Count,
    Hex,
    Key,
    ObjectName,
    encode_json,
    from_json,
    longest,
    one_of,
    parse_object,
    refuse,
    to_json,
    within,
)
from pcrstore.core.json_reader import JsonReader, parse_json
from pcrstore.core.ranges import ByteRange, Request, coalesce, split

__all__ = [
    "MAX_INT",
    "UID_BYTES",
    "ByteRange",
    "Count",
    "Hex",
    "JsonReader",
    "Key",
    "ObjectName",
    "Request",
    "coalesce",
    "crc32c",
    "encode_json",
    "from_json",
    "hashes",
    "integer",
    "key_of",
    "longest",
    "one_of",
    "parse_json",
    "parse_object",
    "parse_size",
    "place_words",
    "real",
    "record_seed",
    "refuse",
    "split",
    "to_json",
    "uniforms",
    "within",
]
