"""The evaluator's task: what every evaluation reports, and a confusion matrix."""

import functools
import logging
from dataclasses import asdict

import fedws
from evaluator.confusion import MAX_MATRIX_CLASSES, ConfusionMatrix

log = logging.getLogger("fedws")


@fedws.task_traits("metrics")
def evaluate(request: fedws.TaskRequest, context: fedws.TaskContext) -> fedws.TaskResult:
    """Evaluate the request's model on this node's data, and report its confusion matrix as the table ``confusion``.

    The coordinator writes the table to the record of the evaluation, under ``tables``. Without a matrix, as for a model
    of too many classes, the result has its numbers alone.
    """
    settings = context.parse_settings(request, fedws.EvalSettings)
    module = context.build_eval_model(settings, request.tensors)
    matrix = ConfusionMatrix()
    result = fedws.evaluate(module, context, settings, on_batch=matrix.observe)
    table = matrix.table(context.policy.min_samples)
    if matrix.num_classes is not None and matrix.num_classes > MAX_MATRIX_CLASSES:
        _log_missing_matrix(context.node)
    return context.build_result(request, asdict(result) | ({} if table is None else {"confusion": table}))


@functools.cache  # once for each node: a coordinator may ask for any number of evaluations
def _log_missing_matrix(node: str) -> None:
    """Log that ``node`` evaluates a model without a confusion matrix."""
    log.warning(
        "%s: no confusion matrix for a model of more than %d classes; its results have the other metrics",
        node,
        MAX_MATRIX_CLASSES,
    )
