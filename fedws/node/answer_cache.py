"""The data that a node keeps for a run until the run's last answer has arrived."""

from dataclasses import replace

import torch

from fedws.network.body_transfer import BodyTransfers
from fedws.network.stored_bodies import StoredBodies
from fedws.object_store.base import BodyStore
from fedws.protocol.messages import Answer, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim


class AnswerCache:
    """A cache that lets a run continue on a new link after a link is lost.

    It holds the run's last request with its result, and the partly received body of the next request. On the run's
    next link, interrupted transfers continue where they stopped. A request that is sent again gets the cached
    result, so the node neither trains nor adds noise twice.
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
        """Start a link and return its body transfers.

        If the link does not continue the cached run, drop the data of the cached run.
        """
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
        """Return the cached result if ``request`` is the first one on its link and repeats the last one answered.

        Otherwise return None. The result stays cached until ``save``, so that the next link can use it if this link
        is lost first.
        """
        known, new, self._is_new_link = self._last_answer, self._is_new_link, False
        if known is None or not new or not _is_same_request(request, known[0]):
            self._last_answer = None
            return None
        return replace(known[1], request_id=request.request_id)

    def save(self, request: TaskRequest, answer: Answer) -> None:
        """Cache an answer that is about to be sent, together with its request."""
        self._last_answer = (
            (request, answer) if isinstance(answer, TaskResult) and answer.request_id == request.request_id else None
        )

    def discard_answer(self) -> None:
        """Drop the last answer after it has arrived, since its request is not sent again."""
        self._discard_result()
        self._transfers.discard_partial()

    def clear(self) -> None:
        """Drop all data of a run that does not continue, or that the node no longer waits for."""
        self.discard_answer()
        self._transfers.release_stored()

    def _discard_result(self) -> None:
        self._last_answer = None


def _is_same_request(first: TaskRequest, second: TaskRequest) -> bool:
    """Return whether two requests are equal except for their ids and their resume offsets."""
    if replace(first, request_id="", resume_offsets={}, tensors={}) != replace(
        second, request_id="", resume_offsets={}, tensors={}
    ):
        return False
    if list(first.tensors) != list(second.tensors):
        return False
    both = zip(first.tensors.values(), second.tensors.values(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in both)
