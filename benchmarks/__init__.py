"""Measurements that the package's promises rest on; each module says what it measures."""
