"""The unanswered requests to one node."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from fedws.core.errors import ProtocolError
from fedws.core.untrusted_text import to_printable
from fedws.protocol import answer_size
from fedws.protocol.messages import Answer, FailureCode, TaskFailure, TaskRequest, build_failure

LinkFailureKind = Literal["lost", "failed"]
MIN_RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS = 1.0, 25 * 3600.0
"""Bounds in seconds of the delay that a node can request; a policy limits the results of one day."""


class OpenRequests:
    """The open requests to one node, each of which is resolved once, with a result or a failure."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._open: dict[str, tuple[TaskRequest, Callable[[Answer], None]]] = {}
        self._sending_ids: set[str] = set()

    def add(self, request: TaskRequest, on_answer: Callable[[Answer], None]) -> None:
        """Add a request that is about to be sent."""
        self._open[request.request_id] = request, on_answer
        self._sending_ids.add(request.request_id)

    def mark_sent(self, request_id: str) -> None:
        """Mark a request as completely handed to the transport."""
        self._sending_ids.discard(request_id)

    def resolve(self, request_id: str, answer: Answer) -> None:
        """Close a request with its answer, or do nothing if it is not open."""
        _, on_answer = self._open.pop(request_id, (None, None))
        if on_answer is not None:
            on_answer(answer)

    def check_answer(self, answer: Answer) -> Answer:
        """Return the node's answer without the values that only the coordinator may set.

        Raises ProtocolError if it does not answer an open request, or if a result has no samples.
        """
        request, _ = self._open.get(answer.request_id, (None, None))
        if request is None or (answer.worker, answer.round) != (self._node, request.round):
            raise ProtocolError(f"answer to the unknown request {to_printable(answer.request_id, 64)!r}")
        if isinstance(answer, TaskFailure):
            return _sanitize_failure(answer)
        if answer.num_examples < 1:
            raise ProtocolError(f"task_result: num_examples is {answer.num_examples}, expected 1 or more")
        return answer

    def fail_all(self, kind: LinkFailureKind, reason: str, *, progressed: bool, interrupted: bool) -> None:
        """Fail all requests after the link was lost.

        ``progressed`` is True if a transfer has transmitted more of its body than any attempt before. ``interrupted``
        is True if the loss cut off a body.
        """
        for request, _ in list(self._open.values()):
            code: FailureCode = ""
            if kind == "lost" and progressed:
                code = "transfer_progressed"
            elif kind == "lost" and (interrupted or request.request_id in self._sending_ids):
                code = "transfer_interrupted"
            self.resolve(request.request_id, build_failure(request, kind, reason, code))
        self._sending_ids.clear()

    def max_answer_bytes(self) -> int:
        """Return the size in bytes of the largest message that may answer one of these requests."""
        return answer_size.compute_max_answer_size(request for request, _ in self._open.values())


def _sanitize_failure(failure: TaskFailure) -> TaskFailure:
    """Return a node's failure without the values that only the coordinator may set, and with a bounded delay."""
    kind = failure.kind if failure.kind == "refused" else "failed"
    code = failure.code if kind == "refused" and failure.code in ("permanent", "retry_later") else ""
    wait = (
        min(max(failure.retry_after, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)
        if code == "retry_later"
        else 0.0
    )
    return replace(failure, kind=kind, reason=to_printable(failure.reason), code=code, retry_after=wait)
