"""The cost wing."""
