"""The protocol of aggregators."""

from typing import Protocol, TypeVar

from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskResult

A = TypeVar("A")


class Aggregator(Protocol[A]):
    """Results to one set of tensors, streaming, with its state explicit.

    Factory: ``(*, options)``, registered as ``aggregator``.
    """

    def init(self) -> A:
        """The state before the first result."""

    def accumulate(self, accumulator: A, result: TaskResult) -> A:
        """Take in one result; may reuse its own accumulator. Raises RejectedUpdate when it does not fit."""

    def finalize(self, accumulator: A) -> Tensors:
        """The aggregate; at least one result must have been added."""
