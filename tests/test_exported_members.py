"""`__all__` is exactly what is public, sorted, and imported when it is first used."""

import ast
import subprocess
import sys
from pathlib import Path

import pcrstore


def test_all_is_what_is_public():
    assert pcrstore.__all__ == sorted(pcrstore.__all__)
    assert dir(pcrstore) == pcrstore.__all__
    assert set(pcrstore._HOMES) == set(pcrstore.__all__)


def test_every_name_is_there_and_lives_where_it_is_said_to():
    for name in pcrstore.__all__:
        value = getattr(pcrstore, name)
        home = getattr(value, "__module__", f"pcrstore.{pcrstore._HOMES[name]}")
        if home.startswith("pcrstore"):  # not the alias of a union
            assert home.split(".")[1] == pcrstore._HOMES[name].split(".")[0], name


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(pcrstore.__file__).read_text())
    seen = {
        alias.asname or alias.name: node.module.removeprefix("pcrstore.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("pcrstore.")
        for alias in node.names
    }
    assert seen == pcrstore._HOMES


def test_a_name_that_is_none_is_an_attribute_error():
    assert not hasattr(pcrstore, "nonsense")


LIGHT = """
import sys
import pcrstore
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("pcrstore.")}
assert not loaded, loaded
pcrstore.open
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("pcrstore.")}
assert not loaded & {"conversion", "demo", "loader", "torch", "cli"}, loaded
"""


def test_opening_a_dataset_loads_nothing_that_only_converting_needs():
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
