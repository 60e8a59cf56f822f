"""Distributions of slowdowns, one in each module: factors by which devices are slower than the base speed."""
