"""Checks of results, and of the model that is made from them."""

from collections.abc import Callable
from typing import Protocol

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors, find_mismatch, find_nonfinite
from fedws.protocol.messages import TaskResult


class _HasWorkerModel(Protocol):
    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors | None: ...


def find_result_problem(algorithm: _HasWorkerModel, model: Tensors, result: TaskResult) -> str:
    """Return why a result cannot be aggregated into ``model``, or an empty string if it can.

    A problem is a value that is not finite, or a name, a shape or a dtype that does not match.
    """
    problem = find_nonfinite(result.tensors)
    if problem:
        return problem
    try:
        worker_model = algorithm.worker_model(model, result)
    except RejectedUpdate as error:
        return str(error)
    if worker_model is None:
        return ""
    # A finite update may overflow when it is applied.
    return find_mismatch(worker_model, model) or (
        "" if worker_model is result.tensors else find_nonfinite(worker_model)
    )


def apply_server_update(update: Callable[[], Tensors], reference: Tensors) -> tuple[Tensors, str]:
    """Return the next model and why it is invalid, or an empty string if it is valid.

    The model is ``reference`` if ``update`` raises RejectedUpdate.
    """
    try:
        model = update()
    except RejectedUpdate as error:
        return reference, str(error)
    return model, find_mismatch(model, reference) or find_nonfinite(model)
