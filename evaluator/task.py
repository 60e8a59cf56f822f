"""The evaluator's task: what every evaluation reports, and a confusion matrix."""

from dataclasses import asdict

import fedws
from evaluator.confusion import ConfusionMatrix


@fedws.releasing("metrics")
def evaluate(order: fedws.Order, workspace: fedws.Workspace) -> fedws.Report:
    """Evaluate the request's model on this node's data, and report its confusion matrix as the table ``confusion``.

    The coordinator writes the table to the record of the evaluation, under ``tables``.
    """
    settings = workspace.settings(order, fedws.Scoring)
    module = workspace.scored(settings, order.tensors)
    matrix = ConfusionMatrix()
    result = fedws.score(module, workspace, settings, observe=matrix.observe)
    table = matrix.table(workspace.policy.samples)
    return workspace.report(order, asdict(result) | ({} if table is None else {"confusion": table}))
