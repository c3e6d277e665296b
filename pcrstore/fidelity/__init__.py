"""The fidelity wing."""
