"""Federated SGD: one gradient step a round on the mean gradient. McMahan et al. (AISTATS 2017), section 2:

``w <- w - lr * sum_k (n_k / n) grad F_k(w)``.
"""

from dataclasses import asdict, dataclass

import torch

from fedws.errors import RejectedUpdate
from fedws.interfaces import Ask
from fedws.learning import Workspace, gradient
from fedws.messages import Order, Report
from fedws.plan import Training
from fedws.registry import register
from fedws.tensors import Tensors, detached, difference

_GRADIENT = "gradient:"
"""Before a parameter's name: its gradient. Buffers travel under their own names and are averaged."""

# ------------------------------------------------------------------ on the worker


@register("task", "fedsgd.gradient")
def local_gradient(order: Order, workspace: Workspace) -> Report:
    """The gradient of the mean loss over at most ``batches`` local batches, drawn by the order's seed."""
    settings = workspace.settings(order, Training)
    module = workspace.module(settings.model, order.tensors)
    trained = gradient(module, workspace, settings, order.seed)
    parameters = module.named_parameters(remove_duplicate=False)  # tied weights, too, under each of their names
    gradients = {_GRADIENT + name: value.grad for name, value in parameters if value.grad is not None}
    return workspace.report(order, asdict(trained), detached({**gradients, **dict(module.named_buffers())}))


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
        """``w - lr * gradient`` for parameters; buffers as aggregated; what has neither stays as it is."""
        for name in aggregated:
            if name.removeprefix(_GRADIENT) not in model:
                raise RejectedUpdate(f"{name} is not known here")
        return {name: self._next(name, value, aggregated, round) for name, value in model.items()}

    def worker_model(self, model: Tensors, report: Report) -> Tensors:
        """The model that this worker's gradient alone would have made."""
        return self.step(model, report.tensors, report.round)

    def _next(self, name: str, value: torch.Tensor, aggregated: Tensors, round: int) -> torch.Tensor:
        slope = aggregated.get(_GRADIENT + name)
        if slope is None:
            return aggregated.get(name, value)
        problem = difference({name: slope}, {name: value})
        if problem:  # torch would broadcast it, or raise an error of its own
            raise RejectedUpdate(f"the gradient of {problem}")
        return value - self.training.at(round).lr * slope
