"""A thousand hostile manifests, and as many directories of parts: see `support/hostile.py`."""

import pytest
from hostile import broken_promises

pytestmark = pytest.mark.soak

ROUNDS = 1000


@pytest.mark.parametrize("what", ["manifest", "directory"])
def test_what_is_hostile_costs_an_error_and_little_memory(what, tmp_path, scaled):
    assert broken_promises(what, range(scaled(ROUNDS)), tmp_path) == []
