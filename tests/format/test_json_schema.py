"""The JSON Schemas that are shipped are those of the types, and say what the types say."""

import copy
import json
from importlib.resources import files
from pathlib import Path

import pytest
from index_parts import manifest, part
from jsonschema import Draft202012Validator

from pcrstore.format.json_schema import schemas
from pcrstore.format.manifest import encode_manifest

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures"
NAMES = ["directory.json", "manifest.json"]
VALIDATORS = {name: Draft202012Validator(json.loads(text)) for name, text in schemas().items()}


def body(data):
    return json.loads(data.partition(b"\n")[2])


def directory_of(data):
    return json.loads(data[12 : 12 + int.from_bytes(data[4:8], "little")])


MANIFEST = body(encode_manifest(manifest()))
DIRECTORIES = {layout: directory_of(part(layout)[1]) for layout in ("record", "zarr")}


def test_the_shipped_files_are_those_of_the_types():
    """After a change of the types: python tests/support/make_schemas.py."""
    folder = files("pcrstore.format") / "schema"
    assert {f.name: f.read_text() for f in folder.iterdir()} == dict(schemas())
    assert sorted(schemas()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_they_are_schemas_of_their_dialect(name):
    schema = VALIDATORS[name].schema
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


def test_the_wheel_has_them(monkeypatch):
    """As the backend reads pyproject.toml, without a build."""
    setuptools = pytest.importorskip("setuptools")
    config = pytest.importorskip("setuptools.config.pyprojecttoml")
    monkeypatch.chdir(ROOT)
    distribution = setuptools.Distribution()
    config.apply_configuration(distribution, "pyproject.toml")
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    found = {package: names for package, _, _, names in command.data_files}
    assert sorted(found["pcrstore.format"]) == [f"schema/{name}" for name in NAMES]


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_the_json_of_the_fixtures_is_valid(layout):
    root = FIXTURES / f"v1-{layout}"
    for path in (root / "manifests").iterdir():
        VALIDATORS["manifest.json"].validate(body(path.read_bytes()))
    for path in (root / "index").iterdir():
        VALIDATORS["directory.json"].validate(directory_of(path.read_bytes()))
    VALIDATORS["directory.json"].validate(DIRECTORIES[layout])


def at(*path, value):
    """An edit that sets the field at `path`; `...` for a missing one."""

    def edit(m):
        *parents, last = path
        for step in parents:
            m = m[step]
        if value is ...:
            del m[last]
        else:
            m[last] = value

    return edit


VALID = {
    "quality-missing": ("manifest.json", at("quality", value=...)),
    "later-field": ("manifest.json", at("later", value=[1])),
    "later-field-of-a-part": ("manifest.json", at("parts", 0, "later", value=None)),
    "later-feature": ("manifest.json", at("features", value=["shiny"])),
    "later-layout": ("manifest.json", at("layout", value="tar")),
    "later-type": ("manifest.json", at("columns", 0, "dtype", value="later")),
    "boxes": ("manifest.json", at("columns", 0, "shape", value=[None, 4])),
    "no-report": ("manifest.json", at("conversions", 0, "report", value=None)),
    "later-codec": ("directory.json", at("blocks", 0, "codec", value="zstd")),
    "later-kind": ("directory.json", at("blocks", 0, "kind", value="rows")),
    "unused": ("directory.json", at("objects", 0, "unused", value=7)),
    "no-shape": ("directory.json", at("blocks", 1, "shape", value=...)),
}
INVALID = {
    **{
        f"manifest-no-{name}": ("manifest.json", at(name, value=...))
        for name in sorted(MANIFEST.keys() - {"quality"})
    },
    **{
        f"manifest-{name}-null": ("manifest.json", at(name, value=None))
        for name in sorted(MANIFEST)
    },
    **{
        f"directory-no-{name}": ("directory.json", at(name, value=...))
        for name in sorted(DIRECTORIES["record"])
    },
    **{
        f"{'-'.join(map(str, path))}-missing": ("manifest.json", at(*path, value=...))
        for path in (
            ("parts", 0, "directory"),
            ("columns", 0, "shape"),
            ("checked", 0, "crc32c"),
            ("conversions", 0, "report"),
            ("script", "text"),
            ("bytes", "restore"),
        )
    },
    "format": ("manifest.json", at("format", value="other")),
    "version-0": ("manifest.json", at("version", value=0)),
    "version-of-text": ("manifest.json", at("version", value="1")),
    "fraction": ("manifest.json", at("n_images", value=1.5)),
    "large": ("manifest.json", at("n_images", value=2**53)),
    "minus": ("manifest.json", at("bytes", "headers", value=-1)),
    "uid": ("manifest.json", at("uid", value="AB" * 16)),
    "name-up": ("manifest.json", at("parts", 0, "name", value="../x")),
    "name-url": ("manifest.json", at("parts", 0, "name", value="s3://b/x")),
    "no-groups": ("manifest.json", at("groups", value=[])),
    "group-label": ("manifest.json", at("groups", 0, value="A")),
    "splits": ("manifest.json", at("splits", value=["x"] * 256)),
    "shape-0": ("manifest.json", at("columns", 0, "shape", value=[0])),
    "part-images": ("manifest.json", at("parts", 0, "n_images", value=65_537)),
    "part-directory": ("manifest.json", at("parts", 0, "directory", value=[9, 0])),
    "checked-bytes": ("manifest.json", at("checked", 0, "bytes", value=2**26 + 1)),
    "option": ("manifest.json", at("conversions", 0, "options", value={"a": 1})),
    "measured": ("manifest.json", at("quality", 0, "n_images", value=0)),
    "run-name": ("directory.json", at("objects", 0, "name", value="/x")),
    "run-uid": ("directory.json", at("objects", 0, "uid", value="00")),
    "chunk-0": ("directory.json", at("objects", 0, "chunk", value=0)),
    "unused-minus": ("directory.json", at("objects", 0, "unused", value=-1)),
    "rows-minus": ("directory.json", at("blocks", 0, "rows", value=-1)),
    "rows-per-page-0": ("directory.json", at("blocks", 0, "rows_per_page", value=0)),
    "page-minus": ("directory.json", at("blocks", 0, "pages", 0, value=[-1, 0, 0])),
    "page-of-two": ("directory.json", at("blocks", 0, "pages", 0, value=[1, 2])),
    "field-without-name": ("directory.json", at("blocks", 0, "fields", 0, 0, value="")),
    "field-of-none": ("directory.json", at("blocks", 0, "fields", 0, 2, value=0)),
    "nulls": ("directory.json", at("blocks", 1, "nulls", value="no")),
}


def edited(name, edit):
    value = copy.deepcopy(MANIFEST if name == "manifest.json" else DIRECTORIES["record"])
    edit(value)
    return value


@pytest.mark.parametrize(("name", "edit"), VALID.values(), ids=VALID)
def test_what_a_version_may_say_is_valid(name, edit):
    VALIDATORS[name].validate(edited(name, edit))


@pytest.mark.parametrize(("name", "edit"), INVALID.values(), ids=INVALID)
def test_what_no_version_says_is_not(name, edit):
    assert not VALIDATORS[name].is_valid(edited(name, edit))
