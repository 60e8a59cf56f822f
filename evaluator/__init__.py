"""The evaluator: a node that holds test data and scores the models it is sent. Uses fedws' public names only."""

from evaluator.node import evaluator

__all__ = ["evaluator"]
