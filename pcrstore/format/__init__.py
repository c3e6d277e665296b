"""The format wing."""
