"""FedAsync, asynchronous federated optimization.

Source: Xie, Koyejo, Gupta, "Asynchronous Federated Optimization" (OPT 2020), Algorithm 1. Every result makes a new
version of the model: ``x <- (1 - a_t) x + a_t x_k`` with ``a_t = a s(t - tau)``.
"""

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedws.core.registry import register
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import FLOAT8_DTYPES, Tensors, as_real, copy_to_cpu, is_averaged, maximum, to_compute_dtype
from fedws.core.validation import NonNegative, Positive
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.training.local_training import train
from fedws.training.task_context import TaskContext

# ------------------------------------------------------------------ on the worker


class FedAsyncSettings(TrainSettings):
    """The settings of a training request, with ``mu``."""

    mu: NonNegative
    """Weight of the proximal term in the loss."""


@register("task", "fedasync.fit", releases="update", settings=FedAsyncSettings)
def fit(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train the request's model ``x_t`` on the local loss plus ``mu / 2 |x - x_t|^2``.

    The result contains the trained model.
    """
    settings = context.parse_settings(request, FedAsyncSettings)
    module = context.build_model(settings.model, request.tensors)

    def proximal(module: torch.nn.Module) -> torch.Tensor:
        distances = [
            ((as_real(w) - as_real(request.tensors[name].to(w.device))) ** 2).sum()
            for name, w in module.named_parameters()
            if is_averaged(w) and w.dtype not in FLOAT8_DTYPES  # no optimizer changes float8 tensors
        ]
        return settings.mu / 2 * torch.stack(distances).sum()

    trained = train(module, context, settings, request.seed, proximal if settings.mu else None)
    return context.build_result(request, asdict(trained), copy_to_cpu(module.state_dict()))


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "fedasync")
@dataclass(frozen=True)
class FedAsync:
    """Asynchronous mixing of each result into the model, with a weight that falls with staleness (section 5.2)."""

    training: TrainSettings
    _: KW_ONLY
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Mixing weight of a result that is not stale (a)."""
    staleness_function: Literal["constant", "polynomial", "hinge"] = "polynomial"
    """Form of the staleness weight s."""
    exponent: NonNegative = 0.5
    """Exponent of ``polynomial``: ``s = (staleness + 1) ^ -exponent``."""
    slope: Positive = 10.0
    """Slope of ``hinge`` above ``bound``: ``s = 1 / (slope (staleness - bound) + 1)``."""
    bound: NonNegative = 4.0
    """Staleness up to which the weight of ``hinge`` is 1."""
    mu: NonNegative = 0.005
    """Weight of the proximal term in the workers' loss."""
    buffer_size: ClassVar[int] = 1

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task that trains ``model``."""
        return TaskSpec("fedasync.fit", {**self.training.for_round(round_number).model_dump(), "mu": self.mu}, model)

    def init(self) -> dict[str, torch.Tensor]:
        """Return an empty buffer."""
        return {}

    def accumulate(
        self, model: Tensors, buffer: dict[str, torch.Tensor], result: TaskResult, staleness: int
    ) -> dict[str, torch.Tensor]:
        """Return ``model`` mixed with the result; for integers and booleans, return the maximum."""
        weight = self.alpha * self.staleness_weight(staleness)
        return {
            name: torch.lerp(to_compute_dtype(old), to_compute_dtype(result.tensors[name]), weight).to(old.dtype)
            if is_averaged(old)
            else maximum(old, result.tensors[name])
            for name, old in model.items()
        }

    def server_update(self, model: Tensors, buffer: dict[str, torch.Tensor]) -> Tensors:
        """Return the buffer, which already contains the next version of the model."""
        return buffer

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """Return the model that the worker trained."""
        return result.tensors

    def staleness_weight(self, staleness: int) -> float:
        """Return ``s(staleness)``, from 1 down to 0.

        It depends only on the staleness of one result, not on earlier results.
        """
        if self.staleness_function == "constant":
            return 1.0
        if self.staleness_function == "polynomial":
            return float((staleness + 1) ** -self.exponent)
        return 1.0 if staleness <= self.bound else 1 / (self.slope * (staleness - self.bound) + 1)
