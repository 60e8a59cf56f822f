"""Losses, each in its own file."""
