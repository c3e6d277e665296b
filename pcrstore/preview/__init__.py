"""The preview wing."""
