"""Benchmarks of the accuracy, privacy and cost of MistNet."""
