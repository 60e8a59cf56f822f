"""Aggregators, one per file, which combine results into one set of tensors."""
