"""Federated SGD, with one gradient step a round on the mean gradient.

Source: McMahan et al. (AISTATS 2017), section 2: ``w <- w - lr * sum_k (n_k / n) grad F_k(w)``.
"""

from dataclasses import asdict, dataclass
from functools import cache

import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.registry import register
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu, find_mismatch, to_compute_dtype
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.training.local_training import compute_gradient
from fedws.training.model_building import build_model
from fedws.training.task_context import TaskContext

_GRADIENT_PREFIX = "gradient:"
"""Prefix of a parameter's name for its gradient. Buffers keep their names and are averaged."""

# ------------------------------------------------------------------ the tensors of a result


def _trainable_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that are trained, with tied weights under each of their names."""
    return {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}


def _result_tensor_names(module: torch.nn.Module) -> list[str]:
    """Return the names of a result's tensors: the gradients of trained parameters, and the buffers of the model."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = [name for name in module.state_dict() if name not in parameters]
    return [_GRADIENT_PREFIX + name for name in _trainable_parameters(module)] + buffers


# ------------------------------------------------------------------ on the worker


@register("task", "fedsgd.gradient", releases="update", settings=TrainSettings)
def send_gradient(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Compute the gradient of the mean loss over at most ``max_local_batches`` batches.

    The request's seed determines the batches. The result contains the gradients and the buffers.
    """
    settings = context.parse_settings(request, TrainSettings)
    module = context.build_model(settings.model, request.tensors)
    trained = compute_gradient(module, context, settings, request.seed)
    found = dict(module.state_dict())
    for name, value in _trainable_parameters(module).items():
        found[_GRADIENT_PREFIX + name] = (
            torch.zeros_like(to_compute_dtype(value)) if value.grad is None else to_compute_dtype(_to_dense(value.grad))
        )
    return context.build_result(
        request, asdict(trained), copy_to_cpu({name: found[name] for name in _result_tensor_names(module)})
    )


def _to_dense(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient as a dense tensor, which can be sent; the gradient of an embedding may be sparse."""
    return gradient if gradient.layout is torch.strided else gradient.to_dense()


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "fedsgd")
@dataclass(frozen=True)
class FedSGD:
    """Plain gradient descent, with one step a round on the aggregated gradient."""

    training: TrainSettings

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task that computes the gradient at ``model``."""
        return TaskSpec("fedsgd.gradient", self.training.for_round(round_number).model_dump(), model)

    def server_update(self, model: Tensors, aggregate: Tensors, round_number: int) -> Tensors:
        """Return ``w - lr * gradient`` for trained parameters, and the aggregated buffers.

        Parameters that are not trained do not change. Raises RejectedUpdate if the aggregate does not fit the model.
        """
        names = _expected_tensor_names(self.training.model)
        if names != aggregate.keys():  # a weight sent instead of its gradient would be treated as a buffer
            odd = sorted(names ^ aggregate.keys())[0]
            raise RejectedUpdate(f"{odd} is missing" if odd in names else f"unexpected tensor {odd!r}")
        return {name: self._update_tensor(name, value, aggregate, round_number) for name, value in model.items()}

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """Return the model after a step with this worker's gradient alone.

        Raises RejectedUpdate if the result does not fit the model.
        """
        return self.server_update(model, result.tensors, result.round)

    def _update_tensor(self, name: str, value: torch.Tensor, aggregate: Tensors, round_number: int) -> torch.Tensor:
        slope = aggregate.get(_GRADIENT_PREFIX + name)
        if slope is None:
            return aggregate.get(name, value)
        problem = find_mismatch({name: slope}, {name: to_compute_dtype(value)})
        if problem:  # torch would broadcast a wrong shape, or raise its own error
            raise RejectedUpdate(f"the gradient of {problem}")
        return (to_compute_dtype(value) - self.training.for_round(round_number).lr * slope).to(value.dtype)

    def result_template(self, model: Tensors) -> Tensors:
        """Return tensors with the names, dtypes and shapes of a result, for a check before the run."""
        return {
            name: to_compute_dtype(model[name.removeprefix(_GRADIENT_PREFIX)])
            for name in _expected_tensor_names(self.training.model)
        }


@cache
def _expected_tensor_names(model_name: str) -> frozenset[str]:
    """Return the names of the tensors that a result for ``model_name`` must contain."""
    return frozenset(_result_tensor_names(build_model(model_name, seed=0)))
