"""The evaluator's task: what every evaluation reports, and a confusion matrix."""

from dataclasses import asdict

import fedws
from evaluator.confusion import ConfusionMatrix


@fedws.task_traits("metrics")
def evaluate(order: fedws.TaskRequest, workspace: fedws.TaskContext) -> fedws.TaskResult:
    """Evaluate the request's model on this node's data, and report its confusion matrix as the table ``confusion``.

    The coordinator writes the table to the record of the evaluation, under ``tables``.
    """
    settings = workspace.parse_settings(order, fedws.EvalSettings)
    module = workspace.build_eval_model(settings, order.tensors)
    matrix = ConfusionMatrix()
    result = fedws.evaluate(module, workspace, settings, on_batch=matrix.observe)
    table = matrix.table(workspace.policy.min_samples)
    return workspace.build_result(order, asdict(result) | ({} if table is None else {"confusion": table}))
