"""Names of stored objects: versions sort newest first, notes are told from other objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.errors import FormatError
from pcrstore.format.names import (
    FOLDERS,
    array_name,
    chunk_key,
    index_name,
    is_note_name,
    listing_name,
    manifest_name,
    object_name,
    report_name,
    staging_folder,
    unit_name,
    version_of,
    zarr_group_name,
)

VERSION_NAMES = {
    1: "manifests/fffffffe.pcrm",
    2: "manifests/fffffffd.pcrm",
    2**32 - 2: "manifests/00000001.pcrm",
}


@pytest.mark.parametrize(("version", "name"), VERSION_NAMES.items())
def test_versions_have_names(version, name):
    assert manifest_name(version) == name
    assert version_of(name) == version


@pytest.mark.parametrize("version", [0, -1, 2**32 - 1])
def test_versions_out_of_range_have_none(version):
    with pytest.raises(FormatError, match="version must be in"):
        manifest_name(version)


@pytest.mark.parametrize(
    "name",
    [
        "manifests/ffffffff.pcrm",
        "manifests/00000000.pcrm",
        "manifests/FFFFFFFE.pcrm",
        "manifests/fffffffe.pcrm.tmp",
        "manifests/fffffffe",
        "manifests/0fffffffe.pcrm",
        "fffffffe.pcrm",
        "x/manifests/fffffffe.pcrm",
        "manifests/fffffffe.pcrm\n",
        "",
    ],
)
def test_other_names_are_no_manifests(name):
    assert version_of(name) is None


@given(st.integers(1, 2**32 - 3))
def test_the_newest_version_sorts_first(version):
    assert manifest_name(version + 1) < manifest_name(version)
    assert version_of(manifest_name(version)) == version


HASH = "0123456789abcdef" * 2
FOLDER = staging_folder(HASH, HASH)
NAMES = {
    "index": (index_name(HASH, 0), f"index/{HASH}-000000.pcri"),
    "object": (object_name(HASH, 1234567), f"objects/{HASH}-1234567.pcr"),
    "object-of-a-policy": (object_name(HASH, 1, "opaque"), f"objects/{HASH}-000001-opaque.pcr"),
    "chunk": (f"{zarr_group_name(HASH)}/restore/{chunk_key(7)}", f"zarr/{HASH}/restore/c/7"),
    "array": (f"{zarr_group_name(HASH)}/{array_name(2, 2)}", f"zarr/{HASH}/restore"),
    "report": (report_name(HASH), f"reports/{HASH}.json"),
    "staging": (staging_folder(HASH), f"staging/{HASH}"),
    "listing": (listing_name(FOLDER), f"staging/{HASH}/{HASH}/listing"),
    "unit": (unit_name(FOLDER, 7), f"staging/{HASH}/{HASH}/unit-000007"),
    "unit-of-a-policy": (unit_name(FOLDER, 7, "skip"), f"staging/{HASH}/{HASH}/unit-000007-skip"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.values(), ids=NAMES)
def test_objects_have_the_names_of_the_format(name, expected):
    assert name == expected
    assert name.split("/")[0] in FOLDERS


@pytest.mark.parametrize(("name", "_"), NAMES.values(), ids=NAMES)
def test_notes_are_told_from_other_objects(name, _):
    assert is_note_name(name) == (name.startswith("staging/") and name.count("/") == 3)


@pytest.mark.parametrize("end", ["", "/mine", "/listing/x", "/unit-7", "/unit-000007-", "/Listing"])
def test_other_names_in_staging_are_no_notes(end):
    assert not is_note_name(f"{FOLDER}{end}")
