"""A hostile manifest, or directory of a part, costs an error of ours and little memory.

`tests/soak/test_hostile.py` draws a thousand.
"""

import pytest
from hostile import broken_promises


@pytest.mark.parametrize("what", ["manifest", "directory"])
def test_what_is_hostile_costs_an_error_and_little_memory(what, tmp_path):
    assert broken_promises(what, range(20), tmp_path) == []
