"""What the soak tests share."""

from pathlib import Path

import pytest

import pcrstore


@pytest.fixture(autouse=True, scope="session")
def _same_package():
    """Let programs that tests start import the package that the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(pcrstore.__file__).parents[1]))
        yield
