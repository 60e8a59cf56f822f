"""FedBuff: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous

Aggregation" (AISTATS 2022), Algorithm 1: ``x <- x + eta_g (1 / K) sum_i s(tau_i) d_i`` after every K differences, with
``s(tau) = 1 / sqrt(1 + tau)``.
"""

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedws.errors import RejectedUpdate
from fedws.interfaces import Ask
from fedws.learning import Workspace, train
from fedws.messages import Order, Report
from fedws.plan import Training
from fedws.ranges import Positive
from fedws.registry import register
from fedws.tensors import Tensors, detached, difference

# ------------------------------------------------------------------ on the worker


@register("task", "fedbuff.fit", releases="update")
def fit(order: Order, workspace: Workspace) -> Report:
    """Train the order's model; the report holds what was added to each of its floats, and integers as they are."""
    settings = workspace.settings(order, Training)
    module = workspace.module(settings.model, order.tensors)
    trained = train(module, workspace, settings, order.seed)
    new = detached(module.state_dict())
    change = {name: new[name] - old if old.is_floating_point() else new[name] for name, old in order.tensors.items()}
    return workspace.report(order, asdict(trained), change)


# ------------------------------------------------------------------ on the coordinator


@register("strategy", "fedbuff")
@dataclass(frozen=True)
class FedBuff:
    """Adds the mean of K differences at a time, the stale ones weighing less."""

    training: Training
    _: KW_ONLY
    k: Annotated[int, Field(ge=1)] = 10
    """Reports in a version (K of the paper)."""
    lr: Positive = 1.0
    """Server learning rate (eta_g of the paper)."""

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """Train ``model``."""
        return Ask("fedbuff.fit", self.training.at(round).model_dump(), model)

    def empty(self) -> dict[str, torch.Tensor]:
        """No difference yet."""
        return {}

    def add(
        self, model: Tensors, buffer: dict[str, torch.Tensor], report: Report, staleness: int
    ) -> dict[str, torch.Tensor]:
        """Add ``s(staleness) d`` in float64; of integers keep the maximum."""
        weight = (1 + staleness) ** -0.5
        new = {}
        for name, change in report.tensors.items():
            if not change.is_floating_point():
                new[name] = torch.maximum(buffer.get(name, change), change)
            elif name in buffer:
                new[name] = buffer[name].add_(change.double(), alpha=weight)
            else:
                new[name] = change.double() * weight
        return new

    def step(self, model: Tensors, buffer: dict[str, torch.Tensor]) -> Tensors:
        """``x + eta_g / K`` times the sum."""
        scale = self.lr / self.k
        return {
            name: (old.double() + scale * buffer[name]).to(old.dtype)
            if old.is_floating_point()
            else torch.maximum(old, buffer[name])
            for name, old in model.items()
        }

    def worker_model(self, model: Tensors, report: Report) -> Tensors:
        """The newest model with this worker's difference alone; the worker's own where nothing came between."""
        problem = difference(report.tensors, model)
        if problem:  # torch would broadcast it
            raise RejectedUpdate(problem)
        return {
            name: old + report.tensors[name] if old.is_floating_point() else report.tensors[name]
            for name, old in model.items()
        }
