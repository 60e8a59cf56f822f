"""Launcher that starts nodes as processes."""
