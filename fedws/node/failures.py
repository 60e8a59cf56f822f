"""Failures that a worker answers with."""

from dataclasses import replace
from typing import Literal

from fedws.core.errors import FedwsError, RetryLater
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import TaskFailure, TaskRequest


def build_failure(node: str, request: TaskRequest, kind: Literal["refused", "failed"], reason: str) -> TaskFailure:
    """Return the answer of ``node`` to a request that was not carried out."""
    line = to_printable(" ".join(reason.split()))  # it may quote the request, which may be of any size
    return TaskFailure(request_id=request.request_id, worker=node, round=request.round, kind=kind, reason=line)


def build_refused_failure(node: str, request: TaskRequest, error: FedwsError) -> TaskFailure:
    """Return the answer of ``node`` to a request that it refuses: for the whole run, or until later."""
    refused = build_failure(node, request, "refused", str(error))
    if isinstance(error, RetryLater):
        return replace(refused, code="retry_later", retry_after=error.retry_after)
    return replace(refused, code="permanent")
