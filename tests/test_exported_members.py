"""`__all__` is exactly what is public, sorted."""

from types import ModuleType

import pcrstore


def test_all_is_what_is_public():
    members = vars(pcrstore).items()
    public = {k for k, v in members if not k.startswith("_") and not isinstance(v, ModuleType)}
    assert set(pcrstore.__all__) == public
    assert pcrstore.__all__ == sorted(pcrstore.__all__)
