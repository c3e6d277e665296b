"""A value that its column cannot have is an error that names its index part, wherever read."""

import pytest
import uses
from flows import put_all
from msgspec.structs import replace
from rewritten import Draft
from small_datasets import PART, stored

import pcrstore
from pcrstore.errors import FormatError, UnsupportedFormatError
from pcrstore.storage.open import open_store

BAD = {
    "label-high": ("label", 2**31 - 1, r"label of row 1 must be -1\.\.1, got 2147483647"),
    "label-low": ("label", -2, r"label of row 1 must be -1\.\.1, got -2"),
    "split": ("split", 2, r"split of row 1 must be 0\.\.1 or 255, got 2"),
    "format": ("format", 3, "row 1 has image format 3, .* upgrade pcrstore"),
    "orientation-low": ("orientation", 0, r"orientation of row 1 must be 1\.\.8, got 0"),
    "orientation-high": ("orientation", 9, "got 9"),
    "width": ("width", 65_536, r"width of row 1 must be 0\.\.65535, got 65536"),
    "height": ("height", 2**32 - 1, "got 4294967295"),
    "key-empty": ("key", "", "key of row 1 must have 1 to 1024 bytes, got 0"),
    "key-long": ("key", "\u00e9" * 513, "key of row 1 must have 1 to 1024 bytes, got 1026"),
}
AT = PART + 1
"""Image that has the bad value: number 1 of its part."""

READ = {
    ("iter",): ("key", "label", "format", "split"),
    ("numpy", "torch", "torch-iterable", "torch-map"): ("label", "orientation"),
    ("ls",): ("key", "label", "format"),
    ("verify",): ("key", "label", "split", "format", "orientation", "width", "height"),
    ("zarr",): ("key", "label"),
    ("ray",): ("key", "label", "split"),
}
"""Columns that uses read."""
OF_ONE = {
    "column": lambda url, name: pcrstore.open(url).column(name),
    "find": lambda url, name: pcrstore.open(url).find(**{name: lambda v: [True] * len(v)}),
}


def uses_of(name):
    """The uses that read a column."""
    return {
        **{use: lambda url, _, act=act: act(url) for use, act in uses.USES.items()
           if any(use in names and name in read for names, read in READ.items())},
        **OF_ONE,
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize(("name", "value", "says"), BAD.values(), ids=BAD)
def test_a_value_out_of_range_is_named_with_its_part(tmp_path, layout, name, value, says):
    draft = Draft.of(stored(layout))
    draft.set(name, AT, value)
    put_all(open_store(str(tmp_path)), draft.encode())
    expected = UnsupportedFormatError if name == "format" else FormatError
    acts = uses_of(name)
    if layout == "zarr":  # whose view shows the arrays that are stored
        acts.pop("zarr", None)
    for use, act in acts.items():
        with pytest.raises(FormatError, match=says) as caught:
            act(str(tmp_path), name)
        assert draft.parts[1].name in str(caught.value), use
        assert use == "verify" or type(caught.value) is expected, use
        assert use not in ("ls", "verify") or str(caught.value).startswith("exit 1: "), use


SHORTER = {
    "classes": ({"classes": ("cat",)}, "label", r"must be -1\.\.0, got 1"),
    "no-classes": ({"classes": ()}, "label", r"must be -1\.\.-1, got [01]"),
    "splits": ({"splits": ("train",)}, "split", r"must be 0\.\.0 or 255, got 1"),
    "no-splits": ({"splits": ()}, "split", "must be no value or 255, got [01]"),
}


@pytest.mark.parametrize(("changes", "name", "says"), SHORTER.values(), ids=SHORTER)
def test_ids_are_those_of_the_names_in_the_manifest(tmp_path, changes, name, says):
    draft = Draft.of(stored())
    draft.manifest = replace(draft.manifest, **changes)
    put_all(open_store(str(tmp_path)), draft.encode())
    for act in uses_of(name).values():
        with pytest.raises(FormatError, match=rf"index/.*\.pcri: .*{says}"):
            act(str(tmp_path), name)
