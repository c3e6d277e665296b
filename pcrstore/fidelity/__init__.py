"""The fidelity wing."""

from pcrstore.fidelity.shared_fidelity import Dial, Fidelities, Mixture, SharedNumber
from pcrstore.fidelity.targets import ByteBudget, Fidelity, MsSsim, resolve, resolve_fetch

__all__ = [
    "ByteBudget",
    "Dial",
    "Fidelities",
    "Fidelity",
    "Mixture",
    "MsSsim",
    "SharedNumber",
    "resolve",
    "resolve_fetch",
]
