"""Failures that a worker answers with, without anything that may depend on its samples."""

import logging
from dataclasses import replace

from fedws.core.error_text import describe_with_location, find_user_location
from fedws.core.errors import (
    FedwsError,
    MessageTooLarge,
    PieceFailed,
    RequestError,
    RetryLater,
    TaskCancelled,
    TaskError,
    TaskFailed,
    UnknownName,
    UsageError,
)
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import TaskFailure, TaskRequest, build_failure
from fedws.training.task_context import TaskContext


def build_refused_failure(node: str, request: TaskRequest, error: FedwsError) -> TaskFailure:
    """Return the answer of ``node`` to a request that it refuses: for the whole run, or until later."""
    if isinstance(error, RetryLater):
        refused = build_failure(request, "refused", str(error), "retry_later", worker=node)
        return replace(refused, retry_after=error.retry_after)
    return build_failure(request, "refused", str(error), "permanent", worker=node)


class FailureBuilder:
    """Builds the failures of one node from errors, and logs what the coordinator does not get.

    Once a task has read samples, an error and its type may depend on them. The coordinator then gets one text for all
    errors, but for those that are declared to depend on the request alone. With ``send_error_details`` it gets the
    text of each.
    """

    def __init__(self, context: TaskContext, *, send_error_details: bool) -> None:
        self._node = context.node
        self._context = context
        self._send_error_details = send_error_details
        self._warning_log = RateLimitedLog(self._node)
        self._error_log = RateLimitedLog(self._node, BURST_LINES)

    def build_from_task_error(self, request: TaskRequest, error: Exception) -> TaskFailure:
        """Return the answer to a request whose task raised an error."""
        if isinstance(error, TaskCancelled) and self._context.stop.is_set():
            self._context.data_accessed.clear()  # its caller is gone, or its node is ending: it depends on no sample
        hidden = self._must_hide_errors and not isinstance(error, RequestError)
        if isinstance(error, TaskError | UnknownName) and not hidden:
            place = f" ({find_user_location(error)})" if find_user_location(error) else ""
            self._warning_log.log(
                f"{to_printable(request.task, 64)} was refused: {to_printable(str(error), 300)}{place}"
            )
            return build_refused_failure(self._node, request, error)
        if isinstance(error, TaskFailed | TaskCancelled) and not hidden:
            return build_failure(request, "failed", str(error), worker=self._node)
        self._error_log.log(f"{request.task} failed: {describe_with_location(error)}", logging.ERROR, error)
        if hidden:
            return self._build_data_failure(request)
        cause = error.__cause__ if isinstance(error, PieceFailed) else None
        # The coordinator gets the type alone: the text, and which line it was, may tell of the data.
        reason = f"{type(cause or error).__name__} (see the log of {self._node})"
        return build_failure(request, "failed", reason, worker=self._node)

    def build_unsendable(self, request: TaskRequest, error: UsageError) -> TaskFailure:
        """Return the answer in place of a result that cannot be sent: what it has would be the same another time."""
        if isinstance(error, MessageTooLarge):
            return build_failure(request, "refused", f"the result has {error}", "permanent", worker=self._node)
        if self._must_hide_errors:
            self._error_log.log(f"{request.task} failed: the result cannot be sent: {error}", logging.ERROR)
            return self._build_data_failure(request)
        return build_failure(request, "failed", str(error), worker=self._node)  # a result may hold what cannot be sent

    def build_unrecorded(self, request: TaskRequest, error: OSError) -> TaskFailure:
        """Return the answer in place of one that cannot be written to the audit log."""
        reason = "the audit log cannot be written, so nothing leaves"
        self._error_log.log(f"{reason}: {error}", logging.ERROR)
        return build_failure(request, "failed", reason, worker=self._node)

    @property
    def _must_hide_errors(self) -> bool:
        """Whether what goes wrong now may depend on samples that the coordinator must not learn about."""
        return self._context.data_accessed.is_set() and not self._send_error_details

    def _build_data_failure(self, request: TaskRequest) -> TaskFailure:
        reason = f"the task failed on its data (see the log of {self._node})"
        return build_failure(request, "failed", reason, worker=self._node)
