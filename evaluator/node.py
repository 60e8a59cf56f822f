"""The one task of an evaluator, and the node that carries it out."""

from dataclasses import asdict
from typing import Any

import fedws


@fedws.releasing("metrics")
def evaluate(order: fedws.Order, workspace: fedws.Workspace) -> fedws.Report:
    """Score the order's model on this node's data; the metrics are the fields of :class:`fedws.Score`."""
    settings = workspace.settings(order, fedws.Scoring)
    module = workspace.scored(settings, order.tensors)
    return workspace.report(order, asdict(fedws.score(module, workspace, settings)))


def evaluator(node: str, dataset: str, data: fedws.Dataset, threads: int = 1, **more: Any) -> fedws.Worker:
    """A node that scores models on ``data``, with so many threads, and does nothing else.

    ``more`` goes to :class:`fedws.Worker`: ``policy``, ``audit``.
    """
    return fedws.Worker(node, dataset, data, tasks={"evaluate": evaluate}, evaluator=True, threads=threads, **more)
