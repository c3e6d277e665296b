"""The speed of pcrstore alone: each module is a benchmark of `python -m benchmarks`."""
