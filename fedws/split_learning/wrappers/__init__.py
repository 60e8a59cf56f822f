"""Wrappers that an evaluation puts around a model, one per file."""
