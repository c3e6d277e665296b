"""The exports wing."""
