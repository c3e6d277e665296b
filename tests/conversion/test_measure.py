"""Quality is measured on a few images, the same ones for every conversion of a source."""

import pytest
from built_records import SCRIPT
from flows import photo

from pcrstore.conversion.measure import measure, measured_keys
from pcrstore.jpeg.transcoder import Limits, transcode


def test_quality_grows_to_one():
    q = measure(transcode(photo(3), SCRIPT, Limits()).groups)
    assert len(q) == 5
    assert q[-1] == 1.0
    assert q[0] < q[1] <= q[3] <= 1.0


@pytest.mark.parametrize(
    ("n_keys", "n_measured"), [(0, 0), (5, 5), (16, 16), (849, 16), (850, 17), (10**5, 256)]
)
def test_two_percent_are_measured_within_bounds(n_keys, n_measured):
    keys = [f"{i}.jpg" for i in range(n_keys)]
    chosen = measured_keys(keys)
    assert len(chosen) == n_measured
    assert chosen == measured_keys(keys[::-1])
