"""What a scheduler checks of a result, and of the model that it makes of results."""

from collections.abc import Callable
from typing import Protocol

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors, find_mismatch, find_nonfinite
from fedws.protocol.messages import TaskResult


class _HasWorkerModel(Protocol):
    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors | None: ...


def find_result_problem(algorithm: _HasWorkerModel, model: Tensors, result: TaskResult) -> str:
    """Why a result can be no part of ``model``: a value that is no number, a name, a shape or a dtype; else empty."""
    problem = find_nonfinite(result.tensors)
    if problem:
        return problem
    try:
        worker_model = algorithm.worker_model(model, result)
    except RejectedUpdate as error:
        return str(error)
    if worker_model is None:
        return ""
    return find_mismatch(worker_model, model) or (
        "" if worker_model is result.tensors else find_nonfinite(worker_model)
    )  # a finite step may overflow


def apply_server_update(update: Callable[[], Tensors], reference: Tensors) -> tuple[Tensors, str]:
    """The next model and what is wrong with it, if anything."""
    try:
        model = update()
    except RejectedUpdate as error:
        return reference, str(error)
    return model, find_mismatch(model, reference) or find_nonfinite(model)
