"""A changed byte anywhere is found by verify, and never read as what was written.

`tests/soak/test_damage.py` changes every byte.
"""

import pytest
from bent_datasets import Bent
from damages import complaints, places


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_changed_byte_is_found(layout):
    objects = Bent.of(layout).objects
    assert complaints(objects, places(objects, step=61)) == ([], [])
