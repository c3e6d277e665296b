"""JSON Schemas of the manifest and of an index directory, for readers in other languages.

Pure. They are made from the types that read the JSON here, and shipped in `schema/`.
After a change of the types, `python tests/support/make_schemas.py` writes them anew.

They say what msgspec checks: types, required fields, bounds. Rules between fields, and the words
that a field may hold, are in FORMAT.md alone: a later version of the format may add words.
"""

import json
from collections.abc import Mapping
from typing import Final

import msgspec

from pcrstore.format.index_pages import StoredDirectory
from pcrstore.format.manifest import Manifest

__all__ = ["schemas"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> Mapping[str, str]:
    """Return the text of each schema by the name of its file."""
    out: dict[str, str] = {}
    for name, cls in (("manifest.json", Manifest), ("directory.json", StoredDirectory)):
        table = {"$schema": _DIALECT, **msgspec.json.schema(cls)}
        out[name] = json.dumps(table, indent=2) + "\n"
    return out
