"""Names of every object of a dataset, relative to the dataset.

Pure. FORMAT.md, section 1, is the normative text.

    manifests/fffffffe.pcrm                 version 1; `manifests/fffffffd.pcrm` is version 2
    latest                                  the hint for stores that cannot LIST
    index/<conversion>-000000.pcri          index part 0 of a conversion
    objects/<content>-000007.pcr            records of unit 7, record layout
    zarr/<conversion>/group_1/c/0           first chunk of group 1, zarr layout
    reports/<conversion>.json               the conversion's report
    staging/<options>/<content>/listing     the source as it was when the conversion began
    staging/<options>/<content>/unit-000007 the journal's note of finished unit 7

Hashes name the rest: `options` is one of the conversion's options, `content` one of options and
sources, `conversion` one of both and the error policy. `variant` tells apart objects of a unit
that depend on that policy, because some file of theirs could not be converted.
"""

import re
from typing import Final

from pcrstore.errors import FormatError

__all__ = [
    "FOLDERS",
    "LATEST",
    "MANIFESTS",
    "MAX_VERSION",
    "OBJECTS",
    "STAGING",
    "array_name",
    "chunk_key",
    "index_name",
    "is_note_name",
    "listing_name",
    "manifest_name",
    "object_name",
    "report_name",
    "staging_folder",
    "unit_name",
    "version_of",
    "zarr_group_name",
]

MANIFESTS: Final = "manifests"
LATEST: Final = "latest"
OBJECTS: Final = "objects"
STAGING: Final = "staging"
FOLDERS: Final = frozenset({OBJECTS, "index", "zarr", "reports", STAGING})
"""Folders of the objects that conversions write before they commit a version."""

MAX_VERSION: Final = 2**32 - 2

_MANIFEST_NAME: Final = re.compile(rf"{MANIFESTS}/([0-9a-f]{{8}})\.pcrm")
_NOTE_NAME: Final = re.compile(
    STAGING + r"/[0-9a-f]{32}/[0-9a-f]{32}/(listing|unit-[0-9]{6,}(-[a-z0-9]+)?)"
)


def manifest_name(version: int) -> str:
    """Return the name of a version's manifest.

    It counts down, so that the newest version is the first name of one LIST, and depends on nothing
    but the version, so that one conditional create decides between two writers.

    >>> manifest_name(1)
    'manifests/fffffffe.pcrm'
    """
    if not 1 <= version <= MAX_VERSION:
        raise FormatError(f"version must be in 1..{MAX_VERSION}, got {version}")
    return f"{MANIFESTS}/{2**32 - 1 - version:08x}.pcrm"


def version_of(name: str) -> int | None:
    """Return the version that an object name stands for, None if it is no manifest's name.

    >>> version_of("manifests/fffffffd.pcrm")
    2
    """
    m = _MANIFEST_NAME.fullmatch(name)
    version = 2**32 - 1 - int(m[1], 16) if m else 0
    return version if 1 <= version <= MAX_VERSION else None


def index_name(conversion: str, number: int) -> str:
    """Return the name of an index part; a conversion counts its parts from 0."""
    return f"index/{conversion}-{number:06d}.pcri"


def object_name(content: str, unit: int, variant: str = "") -> str:
    """Return the name of the object that holds a unit's records, in the record layout.

    >>> object_name("ab12", 7), object_name("ab12", 7, "skip")
    ('objects/ab12-000007.pcr', 'objects/ab12-000007-skip.pcr')
    """
    return f"{OBJECTS}/{content}-{unit:06d}{variant and '-' + variant}.pcr"


def zarr_group_name(conversion: str) -> str:
    """Return the name of the Zarr group that holds a conversion's arrays, in the zarr layout."""
    return f"zarr/{conversion}"


def array_name(region: int, n_groups: int) -> str:
    """Return the name of a region's array below its Zarr group.

    >>> [array_name(r, 2) for r in range(3)]
    ['group_1', 'group_2', 'restore']
    """
    return "restore" if region == n_groups else f"group_{region + 1}"


def chunk_key(chunk: int) -> str:
    """Return the name of a chunk below its array, which has one axis.

    >>> chunk_key(7)
    'c/7'
    """
    return f"c/{chunk}"


def report_name(conversion: str) -> str:
    """Return the name of a conversion's report."""
    return f"reports/{conversion}.json"


def staging_folder(options: str, content: str = "") -> str:
    """Return the folder of a conversion's notes, or of all with these options."""
    return f"{STAGING}/{options}{content and '/' + content}"


def listing_name(folder: str) -> str:
    """Return the name of the listing in a folder of notes."""
    return f"{folder}/listing"


def unit_name(folder: str, unit: int, variant: str = "") -> str:
    """Return the name of a finished unit's note in a folder of notes."""
    return f"{folder}/unit-{unit:06d}{variant and '-' + variant}"


def is_note_name(name: str) -> bool:
    """Say whether a name is one that a conversion gives to its notes.

    Somebody may keep a folder of his own in `staging/`, which must not be removed.
    """
    return _NOTE_NAME.fullmatch(name) is not None
