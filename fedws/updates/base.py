"""The protocol of aggregators."""

from typing import Protocol, TypeVar

from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskResult

A = TypeVar("A")


class Aggregator(Protocol[A]):
    """An aggregator, which combines results into one set of tensors as they arrive.

    It keeps its state in an explicit accumulator. Its factory takes keyword options, ``(*, options)``, and is
    registered as ``aggregator``.
    """

    def init(self) -> A:
        """Return the accumulator before the first result."""

    def accumulate(self, accumulator: A, result: TaskResult) -> A:
        """Return the accumulator with one more result; it may reuse the memory of ``accumulator``.

        Raises RejectedUpdate if the result cannot be combined with those before.
        """

    def finalize(self, accumulator: A) -> Tensors:
        """Return the aggregate of at least one result."""
