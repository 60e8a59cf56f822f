"""What a node keeps of a run until it knows that its last answer has arrived."""

from dataclasses import replace

import torch

from fedws.network.body_transfer import Transfers
from fedws.network.stored_bodies import Blobs
from fedws.object_store.base import Shelf
from fedws.protocol.messages import Failure, Order, Report
from fedws.protocol.run_claim import Claim

UNFINISHED = 10
"""Times ``silence`` for which either side keeps what a lost link left half done."""


class Unfinished:
    """The last order of a run and its report, and what has come of the next, while a link may be lost.

    On the run's next link its transfers go on where they were cut off, and an order that is asked once more is answered
    with the report that there is: nothing is trained or noised twice.
    """

    def __init__(self, node: str, shelf: Shelf | None = None) -> None:
        self._node = node
        self._shelf = shelf
        self.claim = Claim()
        """Claim of the run."""
        self._transfers = Transfers()
        self._last: tuple[Order, Report] | None = None
        self._new = False

    def begin(self, claim: Claim) -> Transfers:
        """Start a link; return how its bodies travel. What a link that this one does not continue left is dropped."""
        if not claim.continues(self.claim):
            self.leave()
            self.claim, blobs = claim, None
            if self._shelf is not None and claim.run:
                blobs = Blobs(self._shelf.store, self._shelf.above, claim.run, self._node)
            self._transfers = Transfers(blobs, claim.coordinator, keep=True, replaced=self._drop)
        self._new = True
        return self._transfers

    def again(self, order: Order) -> Report | None:
        """Return the report for the first order on a link, if that order is the last one that was answered before.

        The report is kept until :meth:`keep`, so that the next link can have it if this one is lost before.
        """
        known, new, self._new = self._last, self._new, False
        if known is None or not new or not _same(order, known[0]):
            self._last = None
            return None
        return replace(known[1], order=order.id)

    def keep(self, order: Order, answer: Report | Failure) -> None:
        """This answer is about to be sent."""
        self._last = (order, answer) if isinstance(answer, Report) and answer.order == order.id else None

    def forget(self) -> None:
        """The last answer has arrived: its order will not be asked again."""
        self._drop()
        self._transfers.forget()

    def leave(self) -> None:
        """The run will not come back, or need not be waited for."""
        self.forget()
        self._transfers.release()

    def _drop(self) -> None:
        self._last = None


def _same(one: Order, other: Order) -> bool:
    """Whether they ask for the same: all but their ids, and what the coordinator has of a report."""
    if replace(one, id="", held={}, tensors={}) != replace(other, id="", held={}, tensors={}):
        return False
    if list(one.tensors) != list(other.tensors):
        return False
    both = zip(one.tensors.values(), other.tensors.values(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in both)
