"""The maintenance wing."""
