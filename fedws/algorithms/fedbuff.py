"""FedBuff: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous

Aggregation" (AISTATS 2022), Algorithm 1: ``x <- x + eta_g (1 / K) sum_i s(tau_i) d_i`` after every K differences, with
``s(tau) = 1 / sqrt(1 + tau)``.
"""

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedws.core.errors import RejectedUpdate
from fedws.core.plan import Training
from fedws.core.registry import register
from fedws.core.tensors import Tensors, averaged, detached, difference, maximum, wide
from fedws.core.validation import Positive
from fedws.protocol.messages import Order, Report
from fedws.scheduling.base import Ask
from fedws.training.local import train
from fedws.training.task_context import Workspace

# ------------------------------------------------------------------ on the worker


@register("task", "fedbuff.fit", releases="update", settings=Training)
def fit(order: Order, workspace: Workspace) -> Report:
    """Train the order's model; the report holds what was added to each of its floats, and integers as they are.

    The differences of a float8 tensor are float32, and of a complex32 tensor complex64: its own dtype may lack them.
    """
    settings = workspace.settings(order, Training)
    module = workspace.module(settings.model, order.tensors)
    trained = train(module, workspace, settings, order.seed)
    new = detached(module.state_dict())
    change = {name: wide(new[name]) - wide(old) if averaged(old) else new[name] for name, old in order.tensors.items()}
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
        """Add ``s(staleness) d`` in float64, complex ones in complex128; of integers keep the maximum."""
        weight = (1 + staleness) ** -0.5
        new = {}
        for name, change in report.tensors.items():
            if not averaged(change):
                new[name] = maximum(buffer.get(name, change), change)
            elif name in buffer:
                new[name] = buffer[name].add_(_double(change), alpha=weight)
            else:
                new[name] = _double(change) * weight
        return new

    def step(self, model: Tensors, buffer: dict[str, torch.Tensor]) -> Tensors:
        """``x + eta_g / K`` times the sum."""
        scale = self.lr / self.k
        return {
            name: (_double(old) + scale * buffer[name]).to(old.dtype) if averaged(old) else maximum(old, buffer[name])
            for name, old in model.items()
        }

    def worker_model(self, model: Tensors, report: Report) -> Tensors:
        """The newest model with this worker's difference alone; the worker's own where nothing came between."""
        problem = difference(report.tensors, {name: wide(old) for name, old in model.items()})
        if problem:  # torch would broadcast it
            raise RejectedUpdate(problem)
        return {
            name: (wide(old) + report.tensors[name]).to(old.dtype) if averaged(old) else report.tensors[name]
            for name, old in model.items()
        }


def _double(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values as float64 or complex128."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
