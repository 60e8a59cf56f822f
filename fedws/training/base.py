"""The protocols of tasks and losses."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from fedws.protocol.messages import TaskRequest, TaskResult

if TYPE_CHECKING:
    from fedws.training.task_context import TaskContext


class Task(Protocol):
    """The worker's half of an algorithm, which carries out one request on the worker's data."""

    def __call__(self, request: TaskRequest, context: "TaskContext", /) -> TaskResult:
        """Carry out ``request`` and return its result. Raises TaskError if that is not possible."""


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Function ``(outputs, targets) -> scalar`` that returns the mean loss of a batch.

Its factory has the signature ``(*, options)`` and is registered as ``loss``.
"""
