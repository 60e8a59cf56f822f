"""Benchmarks of schedulers with many or slow workers."""
