"""Secure randomness, randomised labels, the owner's policy and the audit log: what may leave a node."""
