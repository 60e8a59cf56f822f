"""Attacks that measure how much private data an adversary can reconstruct."""
