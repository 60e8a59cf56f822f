"""Algorithms, one a file: the worker's half (tasks) and the coordinator's (algorithm) side by side."""
