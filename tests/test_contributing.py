"""CONTRIBUTING.md agrees with the code that it leads to."""

import re
from pathlib import Path

import pytest

import pcrstore

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FOLDERS = ("benchmarks", "docs", "pcrstore", "scripts", "tests")
PATHS = sorted(
    {path for path in re.findall(r"[\w.-]+(?:/[\w.-]+)+", TEXT) if path.startswith(FOLDERS)}
)


def test_the_table_of_wings_is_that_of_the_package():
    [table] = re.findall(r"(?m)^    wing .*(?:\n    .+)*", pcrstore.__doc__)
    assert table.count("\n") > 10
    assert f"\n\n{table}\n\n" in TEXT


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path):
    assert (ROOT / path).exists()


def test_the_paths_are_found():
    assert {"pcrstore/format/record.py", "scripts/soak", "tests/sampling"} <= {*PATHS}
