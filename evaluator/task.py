"""Task of the evaluator, which reports the metrics of every evaluation and a confusion matrix."""

import functools
import logging
from dataclasses import asdict

import fedws
from evaluator.confusion import MAX_MATRIX_CLASSES, ConfusionMatrix

log = logging.getLogger("fedws")


@fedws.task_traits("metrics")
def evaluate(request: fedws.TaskRequest, context: fedws.TaskContext) -> fedws.TaskResult:
    """Evaluate the request's model on this node's data, and return its metrics and confusion matrix.

    The matrix is the table ``confusion``, which the coordinator writes to the record of the evaluation, under
    ``tables``. Without a matrix, for example for a model with too many classes, the result has only the other metrics.
    """
    settings = context.parse_settings(request, fedws.EvalSettings)
    module = context.build_eval_model(settings, request.tensors)
    matrix = ConfusionMatrix()
    result = fedws.evaluate(module, context, settings, on_batch=matrix.observe)
    table = matrix.table(context.policy.min_samples)
    if matrix.num_classes is not None and matrix.num_classes > MAX_MATRIX_CLASSES:
        _log_missing_matrix(context.node)
    return context.build_result(request, asdict(result) | ({} if table is None else {"confusion": table}))


@functools.cache  # log once per node: a coordinator may request any number of evaluations
def _log_missing_matrix(node: str) -> None:
    """Log that ``node`` evaluates a model without a confusion matrix."""
    log.warning(
        "%s: no confusion matrix for a model with more than %d classes; its results contain only the other metrics",
        node,
        MAX_MATRIX_CLASSES,
    )
