"""A mixture is one word per dataset, and draws from it are as its weights say."""

import numpy as np
import pytest
from curves import SIZES, G, a_manifest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pcrstore.errors import FidelityError, OptionError
from pcrstore.fidelity.mixture import Mixture, draw, encode_word, is_per_sample, mean_prefix
from pcrstore.format.manifest import Totals


def drawn(word, images=range(3), record=0, *, source=0, seed=0, epoch=0):
    return draw(word, np.array(images), record, seed=seed, epoch=epoch, source=source)


def mean_bytes(word, n=100):
    return mean_prefix(word, a_manifest(n).totals.groups) / n


WORDS = {
    "two": (Mixture({3: 10, 1: 1}), 0x00FF001A),
    "per-sample": (Mixture({5: 1}, per="sample"), 1 << 256 | 0xFF00000000),
    "number": (2, 0xFF00),
    "target": ("bytes<=310", 0xFF0000),
    "names-of-one-group": (Mixture({"full": 1, 5: 2, 1: 3}), 0xFF000000FF),
    "weight-of-nothing": (Mixture({3: 0.5, 1: 0}), 0xFF0000),
    "weight-of-almost-nothing": (Mixture({3: 1.0, 1: 1e-9}), 0xFF0001),
}


@pytest.mark.parametrize(("fidelity", "word"), WORDS.values(), ids=WORDS)
def test_a_word_has_a_weight_for_each_group(fidelity, word):
    assert encode_word(fidelity, a_manifest()) == word


def test_a_fidelity_that_the_dataset_does_not_have_is_refused():
    with pytest.raises(FidelityError, match="got 6"):
        encode_word(Mixture({3: 1, 6: 1}), a_manifest())


@pytest.mark.parametrize(
    "weights",
    [
        *({}, {1: -1}, {1: 0}, {1: 0, 2: 0.0}, {1: float("nan")}, {1: float("inf")}),
        *({1: 1, 2: -1e-9}, {1: "1"}, {1: None}, {1: True}, [3], "3", {3}, None),
    ],
    ids=str,
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(OptionError, match="weight"):
        Mixture(weights)


def test_a_mixture_is_drawn_for_records_or_samples():
    with pytest.raises(OptionError, match="per must be"):
        Mixture({1: 1}, per="image")


WEIGHTS = {
    "two": {3: 10, 1: 1, 5: 1},
    "halves": {1: 0.5, 2: 0.5},
    "lowest-kept": {1: 1, 5: 255},
    "far-below-lowest": {1: 1e-9, 5: 1.0},
    "all": {1: 1, 2: 2, 3: 3, 4: 4, 5: 5},
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("per", ["record", "sample"])
def test_frequencies_are_the_weights(weights, per):
    word = encode_word(Mixture(weights, per=per), a_manifest())
    n = 3000
    if per == "record":
        found = np.array([drawn(word, record=r) for r in range(n)])
    else:
        found = np.array(drawn(word, range(n)))
    most = max(weights.values())
    kept = {k: max(1, round(255 * w / most)) for k, w in weights.items()}
    for k in range(1, G + 1):
        p = kept.get(k, 0) / sum(kept.values())
        deviation = np.sqrt(n * p * (1 - p))
        assert abs((found == k).sum() - n * p) <= 4 * deviation
    mean = sum(kept[k] * SIZES[k - 1] for k in kept) / sum(kept.values())
    assert mean_bytes(word) == pytest.approx(mean)


def test_the_same_word_is_drawn_again_and_another_for_anything_else():
    per_record = encode_word(Mixture({1: 1, 2: 1, 3: 1, 4: 1}), a_manifest())

    def records(**more):
        return [drawn(per_record, record=r, **more) for r in range(64)]

    base = records()
    assert records() == base
    for more in ({"seed": 1}, {"epoch": 1}, {"source": 1}):
        assert records(**more) != base
    assert [drawn(per_record, [7, 8], record=r) for r in range(64)] == base
    per_sample = encode_word(Mixture({1: 1, 2: 1, 3: 1, 4: 1}, per="sample"), a_manifest())
    one = drawn(per_sample, range(64), record=3)
    assert one == drawn(per_sample, range(64), record=4)
    assert one[10:20] == drawn(per_sample, range(10, 20))
    assert list(one) != base


@pytest.mark.parametrize(
    ("fidelity", "expected"),
    [(3, False), (Mixture({1: 1, 2: 1}), False), (Mixture({1: 1, 2: 1}, per="sample"), True)],
    ids=["one", "per-record", "per-sample"],
)
def test_images_of_a_record_may_differ_where_each_is_drawn_for(fidelity, expected):
    assert is_per_sample(encode_word(fidelity, a_manifest())) is expected


MOST_GROUPS = replace(
    a_manifest(),
    group_labels=tuple(f"g{k}" for k in range(1, 33)),
    totals=Totals(sources=1, groups=(100 * 100,) * 32, headers=50, restore=5),
)


def test_the_last_of_32_groups_has_the_highest_weight():
    assert encode_word(32, MOST_GROUPS) == 0xFF << 248
    assert encode_word(Mixture({32: 1}, per="sample"), MOST_GROUPS) == 1 << 256 | 0xFF << 248
    assert drawn(encode_word("full", MOST_GROUPS)) == 32
    with pytest.raises(FidelityError, match=r"1\.\.32, got 33"):
        encode_word(33, MOST_GROUPS)


@given(
    st.dictionaries(st.integers(1, 32), st.floats(0, 1e6, allow_subnormal=False), min_size=1),
    st.sampled_from(["record", "sample"]),
)
def test_whatever_has_a_weight_can_be_drawn_and_nothing_else(weights, per):
    if not max(weights.values()) > 0:
        return
    word = encode_word(Mixture(weights, per=per), MOST_GROUPS)
    assert is_per_sample(word) == (per == "sample")
    found = {
        k
        for record in range(40)
        for k in np.atleast_1d(drawn(word, range(record * 9, record * 9 + 9), record))
    }
    assert found <= {k for k, w in weights.items() if w > 0}
    least, most = (100 * f(k for k, w in weights.items() if w > 0) for f in (min, max))
    assert least - 1e-6 <= mean_prefix(word, (100,) * 32) <= most + 1e-6
