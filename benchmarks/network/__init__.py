"""Benchmarks of time, bytes and memory of links, rounds and the coordinator."""
