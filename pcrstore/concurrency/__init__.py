"""The concurrency wing."""
