"""The sampling wing."""
