"""Accuracy, privacy and cost of MistNet."""
