"""Errors, tensors, the plan, the registry and file helpers, which all other packages of fedws use."""
