"""Wrappers, one a file: what a model is evaluated in."""
