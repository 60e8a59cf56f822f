"""FedAsync: Xie, Koyejo, Gupta, "Asynchronous Federated Optimization" (OPT 2020), Algorithm 1.

Every report makes a version of the model: ``x <- (1 - a_t) x + a_t x_k`` with ``a_t = a s(t - tau)``.
"""

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedws.core.plan import Training
from fedws.core.registry import register
from fedws.core.tensors import FLOAT8, Tensors, averaged, detached, maximum, reals, wide
from fedws.core.validation import NotNegative, Positive
from fedws.protocol.messages import Order, Report
from fedws.scheduling.base import Ask
from fedws.training.local import train
from fedws.training.task_context import Workspace

# ------------------------------------------------------------------ on the worker


class Settings(Training):
    """What an order says: a training's settings, and mu."""

    mu: NotNegative


@register("task", "fedasync.fit", releases="update", settings=Settings)
def fit(order: Order, workspace: Workspace) -> Report:
    """Train on the local loss + mu / 2 |x - x_t|^2, where x_t is the order's model; the report holds the result."""
    settings = workspace.settings(order, Settings)
    module = workspace.module(settings.model, order.tensors)

    def proximal(module: torch.nn.Module) -> torch.Tensor:
        terms = [
            ((reals(w) - reals(order.tensors[name].to(w.device))) ** 2).sum()
            for name, w in module.named_parameters()
            if averaged(w) and w.dtype not in FLOAT8  # which no optimizer moves
        ]
        return settings.mu / 2 * torch.stack(terms).sum()

    trained = train(module, workspace, settings, order.seed, proximal if settings.mu else None)
    return workspace.report(order, asdict(trained), detached(module.state_dict()))


# ------------------------------------------------------------------ on the coordinator


@register("strategy", "fedasync")
@dataclass(frozen=True)
class FedAsync:
    """Mixes each report into the model, the less the staler it is (section 5.2 of the paper)."""

    training: Training
    _: KW_ONLY
    a: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Mixing weight of a report that is not stale."""
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    exponent: NotNegative = 0.5
    """Of ``polynomial``: ``s = (staleness + 1) ^ -exponent``."""
    slope: Positive = 10.0
    bound: NotNegative = 4.0
    """Of ``hinge``: ``s = 1`` up to ``bound``, then ``1 / (slope (staleness - bound) + 1)``."""
    mu: NotNegative = 0.005
    """Weight of the proximal term in the workers' loss."""
    k: ClassVar[int] = 1

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """Train ``model``."""
        return Ask("fedasync.fit", {**self.training.at(round).model_dump(), "mu": self.mu}, model)

    def empty(self) -> dict[str, torch.Tensor]:
        """Nothing is buffered."""
        return {}

    def add(
        self, model: Tensors, buffer: dict[str, torch.Tensor], report: Report, staleness: int
    ) -> dict[str, torch.Tensor]:
        """The mixture. Integer buffers take the maximum."""
        weight = self.a * self.damping(staleness)
        return {
            name: torch.lerp(wide(old), wide(report.tensors[name]), weight).to(old.dtype)
            if averaged(old)
            else maximum(old, report.tensors[name])
            for name, old in model.items()
        }

    def step(self, model: Tensors, buffer: dict[str, torch.Tensor]) -> Tensors:
        """The mixture is the next version."""
        return buffer

    def worker_model(self, model: Tensors, report: Report) -> Tensors:
        """What the worker trained."""
        return report.tensors

    def damping(self, staleness: int) -> float:
        """s(staleness), from 1 down to 0; always of the report alone, never of those before it."""
        if self.staleness == "constant":
            return 1.0
        if self.staleness == "polynomial":
            return float((staleness + 1) ** -self.exponent)
        return 1.0 if staleness <= self.bound else 1 / (self.slope * (staleness - self.bound) + 1)
