"""Benchmarks of the accuracy of whole jobs."""
