"""Errors, tensors, the plan, the registry and files: what every other part of fedws uses."""
