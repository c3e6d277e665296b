"""The storage wing."""
