"""Sinks, one per file, which write a run's records in other formats."""
