"""Options are checked when they are made, each error naming the option."""

import numpy as np
import pytest

from pcrstore.conversion.options import Options
from pcrstore.errors import OptionError, ScriptError

WRONG = {
    "layout": ({"layout": "tar"}, "layout must be record or zarr"),
    "policy": ({"policy": "ignore"}, "policy must be one of raise"),
    "zero-bytes": ({"record_bytes": 0}, "record_bytes must be an integer of at least 1, got 0"),
    "one-over-a-gib": ({"record_bytes": 2**30 + 1}, f"record_bytes must be at most {2**30}"),
    "zero-images": ({"record_images": 0}, "record_images must be an integer of at least 1"),
    "text": ({"record_bytes": "4mib"}, "an integer of at least 1, got '4mib'"),
    "float": ({"object_bytes": 1e6}, "object_bytes must be an integer"),
    "object-over": ({"object_bytes": 2**30 + 1}, "object_bytes"),
    "chunk-over": ({"chunk_bytes": 2**33}, "chunk_bytes"),
    "hold-negative": ({"hold_bytes": -1}, "hold_bytes"),
    "no-size": ({"record_bytes": None}, "records need a size"),
    "quality-0": ({"encode_quality": 0}, "encode_quality must be an integer of at least 1, got 0"),
    "quality-101": ({"encode_quality": 101}, "encode_quality must be at most 100, got 101"),
    "seed-over": ({"seed": 2**63}, f"seed must be at most {2**63 - 1}, got {2**63}"),
    "classes-repeat": ({"classes": ("a", "b", "a")}, "distinct, got 'a' twice"),
    "classes-text": ({"classes": "ab"}, "sequence of names"),
    "classes-numbers": ({"classes": (1, 2)}, "sequence of names"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_named(values, message):
    with pytest.raises(OptionError, match=message):
        Options(**values)


RIGHT = {
    "one-byte": {"record_bytes": 1},
    "a-gib": {"record_bytes": 2**30, "object_bytes": 2**30},
    "images-alone": {"record_bytes": None, "record_images": 1},
    "quality-1": {"encode_quality": 1},
    "quality-100": {"encode_quality": 100},
    "seeds": {"seed": -(2**63)},
    "hold-nothing": {"hold_bytes": 0},
}


@pytest.mark.parametrize("values", RIGHT.values(), ids=RIGHT)
def test_a_right_option_is_taken(values):
    options = Options(**values)
    assert {name: getattr(options, name) for name in values} == values


def test_integers_of_any_kind_become_integers():
    options = Options(seed=np.int64(3), record_images=np.uint8(7))
    assert (type(options.seed), type(options.record_images)) == (int, int)
    assert options == Options(seed=3, record_images=7)


def test_every_option_but_the_policy_is_described():
    plain = Options().describe()
    changes = [
        *({"layout": "zarr"}, {"script": "spec5"}, {"record_bytes": 5}, {"record_images": 5}),
        *({"object_bytes": 5}, {"chunk_bytes": 5}, {"hold_bytes": 5}, {"encode_quality": 5}),
        *({"split_dirs": True}, {"classes": ("a",)}, {"classes": ()}, {"shuffle": False}),
        {"seed": 5},
    ]
    described = [tuple(Options(**c).describe().items()) for c in changes]
    assert tuple(plain.items()) not in described
    assert len(set(described)) == len(changes)
    assert Options(policy="skip").describe() == plain


def test_a_description_is_small_however_many_classes_there_are():
    names = tuple(f"class-{i:06d}" for i in range(22_000))
    assert max(map(len, Options(classes=names).describe().values())) < 4096


def test_a_script_is_a_name_or_a_text():
    text = Options(script="spec5").parsed_script().text
    assert Options(script=text).parsed_script().text == text
    with pytest.raises(ScriptError):
        Options(script="sa6").parsed_script()
