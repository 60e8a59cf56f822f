"""Starts nodes as processes."""
