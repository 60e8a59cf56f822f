"""Runnable figures, each a ratio to a floor or a peer that is run in turn with it: ``python -m benchmarks``."""
