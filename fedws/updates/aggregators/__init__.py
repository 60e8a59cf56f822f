"""Aggregators, one a file: how results become one set of tensors."""
