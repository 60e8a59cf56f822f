"""Optimizers, each in its own file."""
