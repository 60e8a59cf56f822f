"""Failures that a worker sends as answers, without any content that may depend on its samples."""

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
    """Return the answer of ``node`` to a request that it refuses, either for the whole run or until later."""
    if isinstance(error, RetryLater):
        refused = build_failure(request, "refused", str(error), "retry_later", worker=node)
        return replace(refused, retry_after=error.retry_after)
    return build_failure(request, "refused", str(error), "permanent", worker=node)


class FailureBuilder:
    """A builder of one node's failures, which also logs the details that the coordinator does not get.

    After a task has read samples, an error and its type may depend on the samples. The coordinator then gets the
    same text for all errors. The exceptions are errors that are declared to depend on the request alone
    (``fedws.core.errors.RequestError``). With ``send_error_details`` the coordinator gets the text of each error.
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
            self._context.data_accessed.clear()  # the link or the node ended, which does not depend on samples
        hidden = self._must_hide_errors and not isinstance(error, RequestError)
        if isinstance(error, TaskError | UnknownName) and not hidden:
            place = f" ({find_user_location(error)})" if find_user_location(error) else ""
            self._warning_log.log(
                f"task {to_printable(request.task, 64)} refused: {to_printable(str(error), 300)}{place}"
            )
            return build_refused_failure(self._node, request, error)
        if isinstance(error, TaskFailed | TaskCancelled) and not hidden:
            return build_failure(request, "failed", str(error), worker=self._node)
        self._error_log.log(f"task {request.task} failed: {describe_with_location(error)}", logging.ERROR, error)
        if hidden:
            return self._build_data_failure(request)
        cause = error.__cause__ if isinstance(error, PieceFailed) else None
        # The coordinator gets the type only: the text and the line number may depend on the data.
        reason = f"{type(cause or error).__name__} (see the log of {self._node})"
        return build_failure(request, "failed", reason, worker=self._node)

    def build_unsendable(self, request: TaskRequest, error: UsageError) -> TaskFailure:
        """Return the answer that replaces a result that cannot be sent.

        The failure is permanent if the result is too large, since a repeated request would fail in the same way.
        """
        if isinstance(error, MessageTooLarge):
            return build_failure(request, "refused", f"the result has {error}", "permanent", worker=self._node)
        if self._must_hide_errors:
            self._error_log.log(f"task {request.task} failed: cannot send the result: {error}", logging.ERROR)
            return self._build_data_failure(request)
        # for example a tensor of an unsupported dtype
        return build_failure(request, "failed", str(error), worker=self._node)

    def build_unrecorded(self, request: TaskRequest, error: OSError) -> TaskFailure:
        """Return the answer that replaces one that cannot be written to the audit log."""
        reason = "cannot write the audit log, so no answer is sent"
        self._error_log.log(f"{reason}: {error}", logging.ERROR)
        return build_failure(request, "failed", reason, worker=self._node)

    @property
    def _must_hide_errors(self) -> bool:
        """Return whether an error may depend on samples that the coordinator must not learn about."""
        return self._context.data_accessed.is_set() and not self._send_error_details

    def _build_data_failure(self, request: TaskRequest) -> TaskFailure:
        reason = f"the task failed on its data (see the log of {self._node})"
        return build_failure(request, "failed", reason, worker=self._node)
