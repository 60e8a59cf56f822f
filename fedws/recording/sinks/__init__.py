"""Sinks, one a file: other formats of a run's record."""
