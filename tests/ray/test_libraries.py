"""Without Ray the error says what to install."""

import builtins
import importlib
import sys

import pytest

from pcrstore.errors import MissingDependencyError


@pytest.mark.parametrize("library", ["ray", "pyarrow"])
def test_without_a_library_the_error_says_what_to_install(monkeypatch, library):
    real = builtins.__import__

    def without(name, *args):
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real(name, *args)

    for name in [n for n in sys.modules if n.split(".")[:2] == ["pcrstore", "ray"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pcrstore\[ray\]'"):
        importlib.import_module("pcrstore.ray")
