"""Benchmarks: each prints its figures with a floor or a peer of the same run. Nothing here asserts a time."""
