"""What a node keeps of a run until it knows that its last answer has arrived."""

from dataclasses import replace

import torch

from fedws.network.body_transfer import BodyTransfers
from fedws.network.stored_bodies import StoredBodies
from fedws.object_store.base import BodyStore
from fedws.protocol.messages import Answer, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim


class AnswerCache:
    """The last request of a run and its result, and what has come of the next, while a link may be lost.

    On the run's next link its transfers go on where they were cut off, and a request that is sent once more is answered
    with the result that there is: nothing is trained or noised twice.
    """

    def __init__(self, node: str, body_store: BodyStore | None = None) -> None:
        self._node = node
        self._body_store = body_store
        self.claim = RunClaim()
        """Claim of the run."""
        self._transfers = BodyTransfers()
        self._last_answer: tuple[TaskRequest, TaskResult] | None = None
        self._is_new_link = False

    def start_link(self, claim: RunClaim) -> BodyTransfers:
        """Start a link; return how its bodies travel. What a link that this one does not continue left is dropped."""
        if not claim.may_continue(self.claim):
            self.clear()
            self.claim, blobs = claim, None
            if self._body_store is not None and claim.run:
                blobs = StoredBodies(self._body_store.store, self._body_store.min_bytes, claim.run, self._node)
            self._transfers = BodyTransfers(
                blobs, claim.coordinator, keep_complete=True, on_replaced=self._discard_result
            )
        self._is_new_link = True
        return self._transfers

    def find_result(self, request: TaskRequest) -> TaskResult | None:
        """Return the result for the first request on a link, if that request is the last one that was answered before.

        The result is kept until :meth:`save`, so that the next link can have it if this one is lost before.
        """
        known, new, self._is_new_link = self._last_answer, self._is_new_link, False
        if known is None or not new or not _is_same_request(request, known[0]):
            self._last_answer = None
            return None
        return replace(known[1], request_id=request.request_id)

    def save(self, request: TaskRequest, answer: Answer) -> None:
        """This answer is about to be sent."""
        self._last_answer = (
            (request, answer) if isinstance(answer, TaskResult) and answer.request_id == request.request_id else None
        )

    def discard_answer(self) -> None:
        """The last answer has arrived: its request will not come again."""
        self._discard_result()
        self._transfers.discard_partial()

    def clear(self) -> None:
        """The run will not come back, or need not be waited for."""
        self.discard_answer()
        self._transfers.release_stored()

    def _discard_result(self) -> None:
        self._last_answer = None


def _is_same_request(first: TaskRequest, second: TaskRequest) -> bool:
    """Whether they ask for the same: all but their ids, and what the coordinator has of a result."""
    if replace(first, request_id="", resume_offsets={}, tensors={}) != replace(
        second, request_id="", resume_offsets={}, tensors={}
    ):
        return False
    if list(first.tensors) != list(second.tensors):
        return False
    both = zip(first.tensors.values(), second.tensors.values(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in both)
