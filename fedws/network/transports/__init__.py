"""Transports, one a file, each called as the URL scheme it serves."""
