"""Protocols of tasks and losses."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from fedws.protocol.messages import TaskRequest, TaskResult

if TYPE_CHECKING:
    from fedws.training.task_context import TaskContext


class Task(Protocol):
    """The worker's half: carries out one request on this worker's data. Raises TaskError when it cannot."""

    def __call__(self, request: TaskRequest, context: "TaskContext", /) -> TaskResult:
        """Carry out ``request``."""


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Mean loss of a batch: ``(outputs, targets) -> scalar``. Factory ``(*, options)``, registered as ``loss``."""
