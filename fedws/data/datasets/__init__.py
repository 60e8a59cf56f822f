"""Shipped data sets, one in each file."""
