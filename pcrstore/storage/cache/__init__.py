"""The cache wing."""
