"""Backends of object stores, one module for each URL scheme."""
