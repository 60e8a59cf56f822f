"""A node that holds test data and only evaluates the models that it receives."""

from dataclasses import asdict
from typing import Any

from fedws.core.registry import task_traits
from fedws.core.task_settings import EvalSettings
from fedws.data.base import Dataset
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.training.evaluation import evaluate
from fedws.training.task_context import TaskContext


@task_traits("metrics")
def evaluate_request(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Evaluate the request's model on this node's data.

    The metrics of the result are the fields of ``fedws.protocol.evaluation_result.EvalResult``.
    """
    settings = context.parse_settings(request, EvalSettings)
    module = context.build_eval_model(settings, request.tensors)
    return context.build_result(request, asdict(evaluate(module, context, settings)))


def create_evaluator(node: str, dataset: str, data: Dataset, threads: int = 1, **worker_arguments: Any) -> Worker:
    """Return a node that evaluates models on ``data`` with ``threads`` threads.

    ``worker_arguments`` are passed to ``fedws.node.worker.Worker``, such as ``policy`` and ``audit_log``.
    """
    return Worker(
        node, dataset, data, tasks={"evaluate": evaluate_request}, evaluator=True, threads=threads, **worker_arguments
    )
