"""Speeds, one a file: how many times slower than the fastest the devices of a simulated fleet are."""
