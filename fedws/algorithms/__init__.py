"""Algorithms, one a file: the worker's half (tasks) and the coordinator's (strategy) side by side."""
