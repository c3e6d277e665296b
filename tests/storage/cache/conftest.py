"""A folder for each test's cache."""

import pytest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"
