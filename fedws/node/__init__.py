"""A worker or an evaluator, and how it is served."""
