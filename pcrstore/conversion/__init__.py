"""The conversion wing."""
