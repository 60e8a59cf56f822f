"""A plugin for the overhead of a round: an algorithm without training, and a model of 100 MB.

Flags: --plugin benchmarks/harness/noop_algorithm.py --algorithm noop --model big_100mb
"""

from dataclasses import dataclass

import torch

from fedws.core.registry import register
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.training.task_context import TaskContext


@register("task", "noop.fit", releases="update")
def fit(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Return the request's tensors unchanged."""
    return TaskResult(
        request_id=request.request_id,
        worker=context.node,
        round=request.round,
        num_examples=len(context.data),
        tensors=request.tensors,
    )


@register("algorithm", "noop")
@dataclass(frozen=True)
class Noop:
    """Federated averaging whose workers do not train."""

    training: TrainSettings

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task that sends ``model`` to a worker and back."""
        return TaskSpec("noop.fit", self.training.for_round(round_number).model_dump(), model)

    def server_update(self, model: Tensors, aggregate: Tensors, round_number: int) -> Tensors:
        """Return the mean of the workers' models as the next model."""
        return aggregate

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """Return the model that the worker sent back."""
        return result.tensors


@register("model", "big_100mb")
class Big(torch.nn.Module):
    """A model of 25,000,000 float32 parameters (100,000,000 bytes) in five tensors.

    It is built quickly, and never trained.
    """

    def __init__(self) -> None:
        super().__init__()
        # Not zeros: the kernel maps them all to one page, which stays in the CPU's cache.
        self.parts = torch.nn.ParameterList([torch.full((2_500, 2_000), 0.5) for _ in range(5)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``inputs``; no benchmark calls this method."""
        return inputs
