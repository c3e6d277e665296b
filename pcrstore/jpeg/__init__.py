"""The jpeg wing."""
