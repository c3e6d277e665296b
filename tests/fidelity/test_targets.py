"""What is asked for as fidelity comes to a group of the dataset, or to an error that says which."""

from dataclasses import dataclass

import numpy as np
import pytest
from curves import measured
from hypothesis import given
from hypothesis import strategies as st
from index_parts import manifest
from msgspec.structs import replace

from pcrstore.errors import FidelityError
from pcrstore.fidelity.mixture import Mixture, encode_word
from pcrstore.fidelity.targets import (
    TEXT_FORMS,
    ByteBudget,
    FidelityTarget,
    MsSsim,
    resolve,
    resolve_fetch,
)
from pcrstore.format.manifest import Totals

# Three groups of 10 images: 1000, 3000 and 6000 bytes an image; MS-SSIM 0.9, 0.95, 1.
M = manifest(
    group_labels=("a", "b", "c"),
    n_images=10,
    totals=Totals(sources=1, groups=(10_000, 20_000, 30_000), headers=1, restore=1),
    quality=(measured((0.9, 0.95, 1.0)),),
)

GROUPS = {
    1: 1,
    3: 3,
    np.int64(2): 2,
    "1": 1,
    " 3 ": 3,
    "full": 3,
    " FULL ": 3,
    "ms-ssim>=0": 1,
    "ms-ssim>=0.9": 1,
    "ms-ssim>=0.9001": 2,
    "MS-SSIM >= .95": 2,
    "msssim>=0.951": 3,
    "ms-ssim>=1": 3,
    "ms-ssim>=1.0": 3,
    MsSsim(0.9): 1,
    MsSsim(0.91): 2,
    "bytes<=1000": 1,
    "bytes<=2999": 1,
    "bytes<=3000": 2,
    "bytes<=3kb": 2,
    "bytes<=3k": 2,
    "bytes<=2.9kb": 1,
    "bytes<=2.93kib": 2,
    "bytes<=3ki": 2,
    "bytes<=1mb": 3,
    "bytes <= 1 MiB": 3,
    "bytes<=3000b": 2,
    ByteBudget(5999): 2,
    ByteBudget(6000): 3,
}


@pytest.mark.parametrize(("asked", "group"), GROUPS.items(), ids=lambda v: str(v)[:24])
def test_fidelities_come_to_a_group(asked, group):
    got = resolve(asked, M)
    assert got == group
    assert type(got) is int
    assert resolve_fetch(asked, M) == (group, False)


def test_a_budget_is_exact_to_the_byte():
    assert ByteBudget.parse("bytes<=1.001kb") == ByteBudget(1001)  # 1.001 * 1000 is less, in floats
    assert ByteBudget.parse("bytes<=9007199254740993b") == ByteBudget(2**53 + 1)


NO_INTEGERS = [True, 1.0, None, b"1", [1], np.float64(1)]


@pytest.mark.parametrize("asked", NO_INTEGERS, ids=repr)
def test_what_only_looks_like_an_integer_is_refused(asked):
    with pytest.raises(FidelityError, match="must be an integer"):
        resolve(asked, M)


REFUSED = {
    0: "fidelity must be in 1..3, got 0",
    4: "fidelity must be in 1..3, got 4",
    -1: "got -1",
    "9" * 5000: "fidelity must be 1..3",
    "bytes<=" + "9" * 25: "fidelity must be 1..3",
    "bytes<=" + "9" * 400: "fidelity must be 1..3",
    "0": "got 0",
    "4": "got 4",
    "": "fidelity must be 1..3",
    "best": "fidelity must be 1..3",
    "1.5": "fidelity must be 1..3",
    "-1": "fidelity must be 1..3",
    "original": "fidelity must be 1..3",
    "ms-ssim>0.9": "fidelity must be 1..3",
    "ms-ssim>=2": "fidelity must be 1..3",
    "ms-ssim>=1.01": "MS-SSIM must be at most 1.0000",
    "bytes<=": "fidelity must be 1..3",
    "bytes<=-5": "fidelity must be 1..3",
    "bytes<=5tb": "fidelity must be 1..3",
    "bytes<=1i": "fidelity must be 1..3",
    "bytes<=999": "byte budget must be at least 1000 per image",
    MsSsim(1.5): "MS-SSIM must be at most 1.0000",
    ByteBudget(999): "byte budget must be at least 1000",
}


@pytest.mark.parametrize(("asked", "message"), list(REFUSED.items()), ids=lambda v: repr(v)[:24])
def test_other_fidelities_are_refused(asked, message):
    with pytest.raises(FidelityError, match=message):
        resolve(asked, M)


@pytest.mark.parametrize("word", ["original", " Original "])
def test_the_source_file_is_for_fetch(word):
    assert resolve_fetch(word, M) == (3, True)


def test_no_quality_was_measured():
    other = replace(measured((0.9, 0.95, 1.0)), metric="vmaf")
    for quality in ((), (other,)):
        m = replace(M, quality=quality)
        with pytest.raises(FidelityError, match="no quality was measured"):
            resolve("ms-ssim>=0.5", m)
        assert resolve("bytes<=3000", m) == 2


def test_an_empty_dataset_has_fidelities():
    empty = replace(M, n_images=0, totals=replace(M.totals, groups=(0, 0, 0)))
    assert resolve(ByteBudget(0), empty) == 3
    assert resolve(2, empty) == 2


@given(st.integers(0, 20_000))
def test_more_budget_never_gives_less(budget):
    more = resolve(ByteBudget(budget + 1000), M)
    assert more >= (resolve(ByteBudget(budget), M) if budget >= 1000 else 1)
    assert sum(M.totals.groups[:more]) <= (budget + 1000) * 10


@given(st.floats(0, 1))
def test_the_lowest_group_that_is_good_enough(target):
    k = resolve(MsSsim(target), M)
    mean = M.measured().mean
    assert mean[k - 1] >= target
    assert all(q < target for q in mean[: k - 1])


@given(st.text(max_size=12))
def test_any_text_is_a_fidelity_or_refused(text):
    try:
        assert resolve(text, M) in (1, 2, 3)
    except FidelityError as e:
        assert str(e)  # noqa: PT017 - either outcome is right


@dataclass(frozen=True)
class BytesShare:
    """A target of one's own: the highest fidelity within a share of the bytes of all groups."""

    at_most: float

    @classmethod
    def parse(cls, text):
        form, _, number = text.partition("<=")
        return cls(float(number)) if form == "bytes-share" else None

    def resolve_for(self, manifest):
        ends = np.cumsum(manifest.totals.groups)
        return int(np.searchsorted(ends, self.at_most * ends[-1], side="right"))


@pytest.fixture
def _bytes_share(monkeypatch):
    monkeypatch.setitem(TEXT_FORMS, "bytes-share<=X", BytesShare.parse)


# Shares of 1/6, 3/6 and 6/6.
@pytest.mark.parametrize(("share", "group"), [(0.2, 1), (0.5, 2), (0.99, 2), (1, 3)])
def test_a_target_of_ones_own_is_taken_as_a_value(share, group):
    target = BytesShare(share)
    assert isinstance(target, FidelityTarget)
    assert resolve(target, M) == group
    assert resolve_fetch(target, M) == (group, False)
    assert encode_word(Mixture({target: 1}), M) == encode_word(group, M)


@pytest.mark.usefixtures("_bytes_share")
def test_a_target_of_ones_own_is_taken_as_text_with_one_row_more():
    assert resolve(" Bytes-Share <= 0.5", M) == 2
    assert resolve("bytes<=3kb", M) == 2
    with pytest.raises(FidelityError, match=r'"bytes<=N" or "bytes-share<=X", got \'best\''):
        resolve("best", M)


def test_a_target_that_comes_to_no_group_is_refused():
    with pytest.raises(FidelityError, match=r"must be in 1\.\.3, got 0"):
        resolve(BytesShare(0.1), M)
