"""Aggregators, one a file: how reports become one set of tensors."""
