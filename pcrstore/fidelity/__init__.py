"""Fidelity: a number of scan groups, asked for by number, by target or by mixture.

    targets            "full", 3, "ms-ssim>=0.95", "bytes<=20kb", MsSsim(0.95) ──▶ a group 1..G
    mixture            several of these by weight ──▶ an integer ──▶ a group for each draw
    shared_fidelity    such a word per dataset of a loader, in memory that all its processes share

`targets` and `mixture` are pure. A target is resolved against the statistics in the manifest, so
resolving reads nothing, and two datasets may give different groups for the same target. A draw from
a mixture is a function of seed, epoch and record (or image): every process draws the same.

Examples:
    A dataset of three groups, whose mean image has 1000, 3000 and 6000 bytes up to each:
    `"bytes<=3kb"` is group 2, `"bytes<=2999"` is group 1, and `"bytes<=999"` is a `FidelityError`.
    `Mixture({"bytes<=3kb": 3, "full": 1})` reads three records of four at group 2, one at group 3.

    >>> MsSsim.parse("ms-ssim>=0.95")
    MsSsim(at_least=0.95)
    >>> ByteBudget.parse("bytes<=20kb")
    ByteBudget(at_most=20000)
"""

from pcrstore.fidelity.mixture import Fidelities, Mixture
from pcrstore.fidelity.shared_fidelity import SharedFidelity
from pcrstore.fidelity.targets import (
    ByteBudget,
    Fidelity,
    FidelityTarget,
    MsSsim,
    resolve,
    resolve_fetch,
)

__all__ = [
    "ByteBudget",
    "Fidelities",
    "Fidelity",
    "FidelityTarget",
    "Mixture",
    "MsSsim",
    "SharedFidelity",
    "resolve",
    "resolve_fetch",
]
