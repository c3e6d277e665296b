"""The fidelity wing."""

from pcrstore.fidelity.shared_fidelity import Fidelities, Mixture, SharedFidelity
from pcrstore.fidelity.targets import ByteBudget, Fidelity, MsSsim, resolve, resolve_fetch

__all__ = [
    "ByteBudget",
    "Fidelities",
    "Fidelity",
    "Mixture",
    "MsSsim",
    "SharedFidelity",
    "resolve",
    "resolve_fetch",
]
