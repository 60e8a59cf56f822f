"""FedBuff: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous

Aggregation" (AISTATS 2022), Algorithm 1: ``x <- x + eta_g (1 / K) sum_i s(tau_i) d_i`` after every K differences, with
``s(tau) = 1 / sqrt(1 + tau)``.
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
    """Train the request's model; the result holds what was added to each of its floats, and integers as they are.

    The differences of a float8 tensor are float32, and of a complex32 tensor complex64: its own dtype may lack them.
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
    """Adds the mean of K differences at a time, the stale ones weighing less."""

    training: TrainSettings
    _: KW_ONLY
    buffer_size: Annotated[int, Field(ge=1)] = 10
    """Results in a version (K of the paper)."""
    server_lr: Positive = 1.0
    """Server learning rate (eta_g of the paper)."""

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Train ``model``."""
        return TaskSpec("fedbuff.fit", self.training.for_round(round_number).model_dump(), model)

    def init(self) -> Tensors:
        """No difference yet."""
        return {}

    def accumulate(self, model: Tensors, buffer: Tensors, result: TaskResult, staleness: int) -> Tensors:
        """Add ``s(staleness) d`` in float64, complex ones in complex128; of integers keep the maximum."""
        return add_weighted(buffer, result.tensors, (1 + staleness) ** -0.5)

    def server_update(self, model: Tensors, buffer: Tensors) -> Tensors:
        """``x + eta_g / K`` times the sum."""
        scale = self.server_lr / self.buffer_size
        return {name: _add_scaled(old, buffer[name], scale) for name, old in model.items()}

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """The newest model with this worker's difference alone; the worker's own where nothing came between."""
        problem = find_mismatch(result.tensors, {name: to_compute_dtype(old) for name, old in model.items()})
        if problem:  # torch would broadcast it
            raise RejectedUpdate(problem)
        return {
            name: (to_compute_dtype(old) + result.tensors[name]).to(old.dtype)
            if is_averaged(old)
            else result.tensors[name]
            for name, old in model.items()
        }


def _add_scaled(old: torch.Tensor, total: torch.Tensor, scale: float) -> torch.Tensor:
    """Return ``old + scale * total`` in the dtype of ``old``; of integers and booleans the maximum."""
    if not is_averaged(old):
        return maximum(old, total)
    double = old.to(torch.complex128 if old.is_complex() else torch.float64)
    return (double + scale * (torch.view_as_complex(total) if old.is_complex() else total)).to(old.dtype)
