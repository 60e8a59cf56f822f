"""The protocol of aggregators."""

from typing import Protocol, TypeVar

from fedws.core.tensors import Tensors
from fedws.protocol.messages import Report

A = TypeVar("A")


class Aggregator(Protocol[A]):
    """Reports to one set of tensors, streaming, with its state explicit.

    Factory: ``(*, options)``, registered as ``aggregator``.
    """

    def empty(self) -> A:
        """The state before the first report."""

    def add(self, sum: A, report: Report) -> A:
        """Take in one report; may reuse its own accumulator. Raises RejectedUpdate when it does not fit."""

    def result(self, sum: A) -> Tensors:
        """The aggregate; at least one report must have been added."""
