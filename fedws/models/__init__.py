"""Models, one a file."""
