"""Encodings of features for the way from worker to coordinator, one per file."""
