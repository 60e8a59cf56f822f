"""An evaluator: a node that holds test data, evaluates the models that it is sent, and does nothing else."""

from dataclasses import asdict
from typing import Any

from fedws.core.registry import releasing
from fedws.core.task_settings import Scoring
from fedws.data.base import Dataset
from fedws.node.worker import Worker
from fedws.protocol.messages import Order, Report
from fedws.training.evaluation import score
from fedws.training.task_context import Workspace


@releasing("metrics")
def evaluate(order: Order, workspace: Workspace) -> Report:
    """Evaluate the request's model on this node's data; the metrics are the fields of the evaluation's result."""
    settings = workspace.settings(order, Scoring)
    module = workspace.scored(settings, order.tensors)
    return workspace.report(order, asdict(score(module, workspace, settings)))


def create_evaluator(node: str, dataset: str, data: Dataset, threads: int = 1, **more: Any) -> Worker:
    """Return a node that evaluates models on ``data`` with so many threads.

    ``more`` goes to :class:`fedws.node.worker.Worker`, as ``policy`` and ``audit``.
    """
    return Worker(node, dataset, data, tasks={"evaluate": evaluate}, evaluator=True, threads=threads, **more)
