"""Failures that a worker answers with."""

from dataclasses import replace
from typing import Literal

from fedws.core.errors import FedwsError, TryLater, printable
from fedws.protocol.messages import Failure, Order


def failure(node: str, order: Order, kind: Literal["refused", "failed"], reason: str) -> Failure:
    """Return the answer of ``node`` to an order that was not carried out."""
    line = printable(" ".join(reason.split()))  # it may quote the order, which may be of any size
    return Failure(order=order.id, worker=node, round=order.round, kind=kind, reason=line)


def refusal(node: str, order: Order, error: FedwsError) -> Failure:
    """Return the answer of ``node`` to an order that it refuses: for the whole run, or until later."""
    refused = failure(node, order, "refused", str(error))
    if isinstance(error, TryLater):
        return replace(refused, code="later", wait=error.seconds)
    return replace(refused, code="permanent")
