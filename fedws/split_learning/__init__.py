"""Cuts a model, sends its features, and trains the rest on the coordinator."""
