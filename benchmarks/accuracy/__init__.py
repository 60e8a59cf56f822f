"""Accuracies of whole jobs."""
