"""Algorithms, each in its own file with the worker's half (tasks) and the coordinator's half (algorithm)."""
