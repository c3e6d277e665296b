"""The dataset wing."""
