"""A plugin for the overhead of a round: an algorithm that trains nothing, and a model of 100 MB.

--plugin benchmarks/harness/noop_algorithm.py --algorithm noop --model big_100mb
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
def fit(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    """Give back the order's tensors, untouched."""
    return TaskResult(
        request_id=order.request_id,
        worker=workspace.node,
        round=order.round,
        num_examples=len(workspace.data),
        tensors=order.tensors,
    )


@register("algorithm", "noop")
@dataclass(frozen=True)
class Noop:
    """Federated averaging whose workers do not train."""

    training: TrainSettings

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """The model, and nothing to do with it."""
        return TaskSpec("noop.fit", self.training.for_round(round_number).model_dump(), model)

    def server_update(self, model: Tensors, aggregated: Tensors, round_number: int) -> Tensors:
        """The mean is the next model."""
        return aggregated

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors:
        """What the worker sent back."""
        return report.tensors


@register("model", "big_100mb")
class Big(torch.nn.Module):
    """25,000,000 float32 parameters, 100,000,000 bytes, in five tensors; made in no time and never trained."""

    def __init__(self) -> None:
        super().__init__()
        # Real pages: zeros would all be one page, which stays in the cache.
        self.parts = torch.nn.ParameterList([torch.full((2_500, 2_000), 0.5) for _ in range(5)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Nothing; there only because a module has one."""
        return inputs
