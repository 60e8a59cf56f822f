"""What all benchmarks share: processes, machine load, paired runs, tables."""
