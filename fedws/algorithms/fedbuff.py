"""FedBuff, federated learning with buffered asynchronous aggregation.

Source: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous
Aggregation" (AISTATS 2022), Algorithm 1. After every K differences the update is
``x <- x + eta_g (1 / K) sum_i s(tau_i) d_i`` with ``s(tau) = 1 / sqrt(1 + tau)``.
"""

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedws.core.errors import RejectedUpdate
from fedws.core.registry import register
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu, find_mismatch, is_averaged, maximum, to_compute_dtype
from fedws.core.validation import Positive
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.training.local_training import train
from fedws.training.task_context import TaskContext
from fedws.updates.weighted_mean import add_weighted

# ------------------------------------------------------------------ on the worker


@register("task", "fedbuff.fit", releases="update", settings=TrainSettings)
def fit(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train the request's model; the result contains differences of floats and new values of integers.

    The differences of a float8 tensor are float32, and those of a complex32 tensor complex64, since the dtype of the
    tensor may not represent them.
    """
    settings = context.parse_settings(request, TrainSettings)
    module = context.build_model(settings.model, request.tensors)
    trained = train(module, context, settings, request.seed)
    new = copy_to_cpu(module.state_dict())
    change = {
        name: to_compute_dtype(new[name]) - to_compute_dtype(old) if is_averaged(old) else new[name]
        for name, old in request.tensors.items()
    }
    return context.build_result(request, asdict(trained), change)


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "fedbuff")
@dataclass(frozen=True)
class FedBuff:
    """Asynchronous aggregation of K differences at a time, with smaller weights for stale ones."""

    training: TrainSettings
    _: KW_ONLY
    buffer_size: Annotated[int, Field(ge=1)] = 10
    """Number of results in a model version (K of the paper)."""
    server_lr: Positive = 1.0
    """Server learning rate (eta_g of the paper)."""

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task that trains ``model``."""
        return TaskSpec("fedbuff.fit", self.training.for_round(round_number).model_dump(), model)

    def init(self) -> Tensors:
        """Return an empty buffer."""
        return {}

    def accumulate(self, model: Tensors, buffer: Tensors, result: TaskResult, staleness: int) -> Tensors:
        """Add ``s(staleness) d`` in float64, or complex128 for complex tensors; keep the maximum of integers."""
        return add_weighted(buffer, result.tensors, (1 + staleness) ** -0.5)

    def server_update(self, model: Tensors, buffer: Tensors) -> Tensors:
        """Return ``x + eta_g / K`` times the sum of the differences."""
        scale = self.server_lr / self.buffer_size
        return {name: _add_scaled(old, buffer[name], scale) for name, old in model.items()}

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """Return the newest model plus the difference of this worker alone.

        It is the model that the worker trained if the worker started from the newest model. Raises RejectedUpdate if
        the result does not fit the model.
        """
        problem = find_mismatch(result.tensors, {name: to_compute_dtype(old) for name, old in model.items()})
        if problem:  # torch would broadcast a wrong shape
            raise RejectedUpdate(problem)
        return {
            name: (to_compute_dtype(old) + result.tensors[name]).to(old.dtype)
            if is_averaged(old)
            else result.tensors[name]
            for name, old in model.items()
        }


def _add_scaled(old: torch.Tensor, total: torch.Tensor, scale: float) -> torch.Tensor:
    """Return ``old + scale * total`` in the dtype of ``old``; for integers and booleans, return the maximum."""
    if not is_averaged(old):
        return maximum(old, total)
    double = old.to(torch.complex128 if old.is_complex() else torch.float64)
    return (double + scale * (torch.view_as_complex(total) if old.is_complex() else total)).to(old.dtype)
