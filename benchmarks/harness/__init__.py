"""Parts that all benchmarks share: processes, machine load, paired runs and tables."""
