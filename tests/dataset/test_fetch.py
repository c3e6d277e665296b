"""What fails its checksum is fetched again, a few times; ranges are merged and counted."""

import pytest
from flows import DictStore
from small_datasets import NO_GAPS

from pcrstore.core.ranges import ByteRange
from pcrstore.dataset.fetch import ATTEMPTS, Counter, decode_checked, fetch_ranges, get_ranges
from pcrstore.errors import ChecksumError, FormatError


def test_bytes_are_fetched_twice_more_and_the_last_error_is_raised():
    seen = []

    def decode(fetched):
        seen.append(fetched)
        if fetched != [b"good"]:
            raise ChecksumError(f"{fetched}")
        return "decoded"

    good = iter([[b"bad"], [b"good"]])
    assert decode_checked(decode, [b"worse"], lambda: next(good)) == "decoded"
    assert seen == [[b"worse"], [b"bad"], [b"good"]]
    assert len(seen) == ATTEMPTS
    with pytest.raises(ChecksumError, match="bad"):
        decode_checked(decode, [b"worse"], lambda: [b"bad"])


def test_ranges_come_in_the_order_asked_for_and_are_counted():
    counter = Counter()
    ranges = [ByteRange("a", 4, 6), ByteRange("a", 0, 2), ByteRange("a", 2, 4)]
    assert fetch_ranges(DictStore({"a": b"012345"}), ranges, NO_GAPS, counter) == [
        *(b"45", b"01", b"23")
    ]
    assert (counter.n_requests, counter.n_bytes) == (1, 6)


def test_an_object_that_is_gone_is_damage():
    with pytest.raises(FormatError, match="object that the dataset names is missing"):
        get_ranges(DictStore(), [ByteRange("a", 0, 1)])
