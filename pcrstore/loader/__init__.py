"""The loader wing."""
