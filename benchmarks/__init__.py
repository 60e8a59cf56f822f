"""Benchmarks of fedws, run with ``python -m benchmarks``; each figure is a ratio to a floor or a peer."""
