"""Federated SGD: one gradient step a round on the mean gradient. McMahan et al. (AISTATS 2017), section 2:

``w <- w - lr * sum_k (n_k / n) grad F_k(w)``.
"""

from dataclasses import asdict, dataclass
from functools import cache

import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.plan import Training
from fedws.core.registry import register
from fedws.core.tensors import Tensors, detached, difference, wide
from fedws.protocol.messages import Order, Report
from fedws.scheduling.base import Ask
from fedws.training.building import initial
from fedws.training.local import gradient
from fedws.training.task_context import Workspace

_GRADIENT = "gradient:"
"""Before a parameter's name: its gradient. Buffers travel under their own names and are averaged."""

# ------------------------------------------------------------------ what travels


def _parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What is trained; tied weights, too, under each of their names."""
    return {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}


def _names(module: torch.nn.Module) -> list[str]:
    """A report holds the gradient of each parameter that is trained, and the buffers that are part of the model."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = [name for name in module.state_dict() if name not in parameters]
    return [_GRADIENT + name for name in _parameters(module)] + buffers


# ------------------------------------------------------------------ on the worker


@register("task", "fedsgd.gradient", releases="update", settings=Training)
def local_gradient(order: Order, workspace: Workspace) -> Report:
    """The gradient of the mean loss over at most ``batches`` local batches, drawn by the order's seed."""
    settings = workspace.settings(order, Training)
    module = workspace.module(settings.model, order.tensors)
    trained = gradient(module, workspace, settings, order.seed)
    found = dict(module.state_dict())
    for name, value in _parameters(module).items():
        found[_GRADIENT + name] = torch.zeros_like(wide(value)) if value.grad is None else wide(_dense(value.grad))
    return workspace.report(order, asdict(trained), detached({name: found[name] for name in _names(module)}))


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient as it can be sent; that of an embedding may be sparse."""
    return gradient if gradient.layout is torch.strided else gradient.to_dense()


# ------------------------------------------------------------------ on the coordinator


@register("strategy", "fedsgd")
@dataclass(frozen=True)
class FedSGD:
    """One step of plain gradient descent on the aggregated gradient."""

    training: Training

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """Ask for the gradient at ``model``."""
        return Ask("fedsgd.gradient", self.training.at(round).model_dump(), model)

    def step(self, model: Tensors, aggregated: Tensors, round: int) -> Tensors:
        """``w - lr * gradient`` for parameters; buffers as aggregated; what is not trained stays as it is."""
        names = _asked(self.training.model)
        if names != aggregated.keys():  # a weight in the place of its gradient would be taken for a buffer
            odd = sorted(names ^ aggregated.keys())[0]
            raise RejectedUpdate(f"{odd} is {'missing' if odd in names else 'not known here'}")
        return {name: self._next(name, value, aggregated, round) for name, value in model.items()}

    def worker_model(self, model: Tensors, report: Report) -> Tensors:
        """The model that this worker's gradient alone would have made."""
        return self.step(model, report.tensors, report.round)

    def _next(self, name: str, value: torch.Tensor, aggregated: Tensors, round: int) -> torch.Tensor:
        slope = aggregated.get(_GRADIENT + name)
        if slope is None:
            return aggregated.get(name, value)
        problem = difference({name: slope}, {name: wide(value)})
        if problem:  # torch would broadcast it, or raise an error of its own
            raise RejectedUpdate(f"the gradient of {problem}")
        return (wide(value) - self.training.at(round).lr * slope).to(value.dtype)

    def reported(self, model: Tensors) -> Tensors:
        """Return tensors of the names, dtypes and shapes of a report, for a check before the run."""
        return {name: wide(model[name.removeprefix(_GRADIENT)]) for name in _asked(self.training.model)}


@cache
def _asked(model: str) -> frozenset[str]:
    """The names of what a report on ``model`` must hold."""
    return frozenset(_names(initial(model, seed=0)))
