"""FedAsync: Xie, Koyejo, Gupta, "Asynchronous Federated Optimization" (OPT 2020), Algorithm 1.

Every result makes a version of the model: ``x <- (1 - a_t) x + a_t x_k`` with ``a_t = a s(t - tau)``.
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
    """What a request says: a training's settings, and mu."""

    mu: NonNegative


@register("task", "fedasync.fit", releases="update", settings=FedAsyncSettings)
def fit(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train on the local loss + mu / 2 |x - x_t|^2, where x_t is the request's model; the result holds the new one."""
    settings = context.parse_settings(request, FedAsyncSettings)
    module = context.build_model(settings.model, request.tensors)

    def proximal(module: torch.nn.Module) -> torch.Tensor:
        distances = [
            ((as_real(w) - as_real(request.tensors[name].to(w.device))) ** 2).sum()
            for name, w in module.named_parameters()
            if is_averaged(w) and w.dtype not in FLOAT8_DTYPES  # which no optimizer moves
        ]
        return settings.mu / 2 * torch.stack(distances).sum()

    trained = train(module, context, settings, request.seed, proximal if settings.mu else None)
    return context.build_result(request, asdict(trained), copy_to_cpu(module.state_dict()))


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "fedasync")
@dataclass(frozen=True)
class FedAsync:
    """Mixes each result into the model, the less the staler it is (section 5.2 of the paper)."""

    training: TrainSettings
    _: KW_ONLY
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Mixing weight of a result that is not stale."""
    staleness_function: Literal["constant", "polynomial", "hinge"] = "polynomial"
    exponent: NonNegative = 0.5
    """Of ``polynomial``: ``s = (staleness + 1) ^ -exponent``."""
    slope: Positive = 10.0
    bound: NonNegative = 4.0
    """Of ``hinge``: ``s = 1`` up to ``bound``, then ``1 / (slope (staleness - bound) + 1)``."""
    mu: NonNegative = 0.005
    """Weight of the proximal term in the workers' loss."""
    buffer_size: ClassVar[int] = 1

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Train ``model``."""
        return TaskSpec("fedasync.fit", {**self.training.for_round(round_number).model_dump(), "mu": self.mu}, model)

    def init(self) -> dict[str, torch.Tensor]:
        """Nothing is buffered."""
        return {}

    def accumulate(
        self, model: Tensors, buffer: dict[str, torch.Tensor], result: TaskResult, staleness: int
    ) -> dict[str, torch.Tensor]:
        """The mixture. Integer buffers take the maximum."""
        weight = self.alpha * self.staleness_weight(staleness)
        return {
            name: torch.lerp(to_compute_dtype(old), to_compute_dtype(result.tensors[name]), weight).to(old.dtype)
            if is_averaged(old)
            else maximum(old, result.tensors[name])
            for name, old in model.items()
        }

    def server_update(self, model: Tensors, buffer: dict[str, torch.Tensor]) -> Tensors:
        """The mixture is the next version."""
        return buffer

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """What the worker trained."""
        return result.tensors

    def staleness_weight(self, staleness: int) -> float:
        """s(staleness), from 1 down to 0; always of the result alone, never of those before it."""
        if self.staleness_function == "constant":
            return 1.0
        if self.staleness_function == "polynomial":
            return float((staleness + 1) ** -self.exponent)
        return 1.0 if staleness <= self.bound else 1 / (self.slope * (staleness - self.bound) + 1)
