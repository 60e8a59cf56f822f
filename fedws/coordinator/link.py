"""The coordinator's end of one node: dialled as long as the run lasts, orders out, answers in."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from fedws.coordinator.connector import Contact, Found
from fedws.coordinator.listener import NEWER
from fedws.core.error_location import summary
from fedws.core.errors import (
    LinkError,
    LinkLost,
    NotTaken,
    ProtocolError,
    RunFailed,
    TakenOver,
    TooLarge,
    Undelivered,
    UsageError,
    printable,
)
from fedws.core.limits import Accepted
from fedws.network.base import Channel
from fedws.network.body_transfer import Transfers
from fedws.network.stored_bodies import Blobs
from fedws.node.answer_cache import UNFINISHED
from fedws.protocol import answer_size
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Failure, Message, Order, Report, Welcome
from fedws.scheduling.events import Event, Joined, Left

Answer = Report | Failure
Kind = Literal["lost", "failed"]
Code = Literal["", "permanent", "later", "progress", "transfer"]
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 25 * 3600.0
"""Seconds that a node can make its next request wait: a policy counts what left in a day."""
_LOST: Kind = "lost"
_FAILED: Kind = "failed"  # what would happen again is not laid on the link


class Link:
    """One node of a run. While :meth:`keep` runs it is dialled again whenever its link is down."""

    def __init__(self, contact: Contact, silence: float, blobs: Blobs | None = None) -> None:
        """Make the link to the node of ``contact``, which counts as lost after ``silence`` seconds."""
        self.contact = contact
        self.node = contact.node
        self.url = contact.url
        self.welcome: Welcome | None = None
        """What the node said of itself last; None before it was reached."""
        self.up = asyncio.Event()
        """Set while there is a link."""
        self.away_since = asyncio.get_running_loop().time()
        """By the loop's clock, while there is no link."""
        self._silence = silence
        self._channel: Channel | None = None
        self._open: dict[str, tuple[Order, Callable[[Answer], None]]] = {}
        self._sending: set[str] = set()
        """Open orders that are not wholly on their way."""
        self._before = (0, 0)
        self._request: tuple[object, ...] = ()
        """What tells the request that was sent last from others, however often it is sent."""
        self._transfers = Transfers(blobs, contact.node, allowed=self._allowed)
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def trouble(self) -> str:
        """Why there is no link; empty while there is one."""
        return "" if self._channel is not None else self.contact.trouble

    @property
    def transferred(self) -> tuple[int, int]:
        """Bytes sent and received so far, over all links to this node."""
        (sent, received), channel, stored = self._before, self._channel, self._transfers
        sent, received = sent + stored.sent, received + stored.received
        return (sent, received) if channel is None else (sent + channel.sent, received + channel.received)

    async def keep(self, post: Callable[[Event], None]) -> None:
        """Dial, read answers, and when the link is lost dial again, until cancelled.

        ``post`` gets Joined and Left; open orders are answered before Left. Raises what :meth:`Contact.find` does, and
        RunFailed when another coordinator goes on with this run; UsageError when the address is none.
        """
        meeting = self.contact.meeting
        newer: asyncio.Task[Found] | None = None
        try:
            while True:
                found = await (newer or self.contact.find())
                # A node that dials out may do so again before its older link is known to be lost here.
                newer = None if meeting is None else asyncio.create_task(self.contact.joined(meeting))
                await self._follow(*found, newer, post)
                await asyncio.sleep(self.contact.pauses.next())
        finally:
            if newer is not None:
                newer.cancel()
                await asyncio.gather(newer, return_exceptions=True)

    async def _follow(
        self, channel: Channel, welcome: Welcome, newer: "asyncio.Task[Found] | None", post: Callable[[Event], None]
    ) -> None:
        """Read answers until the link is lost, or there is a newer one."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        channel.transfers = self._transfers
        self._transfers.tell(welcome.held)
        self._transfers.tell_store(welcome.blobs)
        self._transfers.tell_limits(Accepted(welcome.max_message, welcome.max_tensors, self.node))
        self._channel, self.welcome = channel, welcome
        self.up.set()
        post(Joined(worker=self.node, samples=welcome.samples))
        reason = told = "the coordinator ends"
        kind, code = _LOST, CloseCode.GIVEN_UP
        try:
            await self._read(channel, newer)
        except ProtocolError as error:
            told, code = str(error), CloseCode.NOT_TAKEN
            reason, kind = f"broke the protocol: {told}", _FAILED
        except LinkError as error:
            reason, told = f"link lost: {error}", ""
            kind = _FAILED if isinstance(error, NotTaken) else _LOST
            if isinstance(error, TakenOver):  # two that dial again would take it from each other for ever
                raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        finally:
            self._down(channel, reason, kind)
            later = UNFINISHED * self._silence
            self._forgetting = asyncio.get_running_loop().call_later(later, self._transfers.forget)
            post(Left(worker=self.node, reason=reason))
            if newer is None or not newer.done():  # else the meeting closes it
                await channel.close(told, code)  # which may take long

    async def _read(self, channel: Channel, newer: "asyncio.Task[Found] | None") -> None:
        """Raises why it ended."""

        async def read() -> None:
            while True:
                self._answered(await self._received(channel))

        reading = asyncio.create_task(read())
        try:
            await asyncio.wait([reading, *filter(None, [newer])], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            raise LinkLost(NEWER)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def give(self, order: Order, then: Callable[[Answer], None], about: str = "") -> None:
        """Send an order; ``then`` gets its one answer, also a Failure of kind ``lost`` without a link.

        ``about`` tells orders apart that are otherwise of one request, as those to score the models of one round.
        """
        if self._channel is None:
            return then(_failure(order, "lost", self.trouble, "transfer"))  # it was not sent
        request = (order.round, order.task, order.base, order.seed, about)
        if request != self._request:
            self._request = request
            self._transfers.progress.restart()
        self._open[order.id] = order, then
        self._sending.add(order.id)
        try:
            await self._channel.send(replace(order, held=self._transfers.held))
            self._sending.discard(order.id)
        except UsageError as error:  # too large, or of tensors that cannot travel: it will be so each time
            reason = f"its order has {error}" if isinstance(error, TooLarge) else f"its order cannot be sent: {error}"
            self._resolve(order.id, _failure(order, "failed", reason, "permanent"))
        except LinkError:
            pass  # the reader sees it too, and answers all that is open
        except Exception as error:  # a bug here must end the order, not leave it waiting
            self._resolve(order.id, _failure(order, "failed", summary(error)))
        return None

    async def ask(self, order: Order, about: str = "") -> Answer:
        """:meth:`give`, and wait for the answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self.give(order, lambda found: None if answer.done() else answer.set_result(found), about)
        return await answer

    async def _received(self, channel: Channel) -> Message:
        """The next message; a report whose body is not to be had is a failure."""
        try:
            return await channel.receive()
        except Undelivered as error:
            report = error.message
            if not isinstance(report, Report):
                raise ProtocolError("a body in an object store, of no report") from None
            reason = printable(str(error))
            return Failure(order=report.order, worker=report.worker, round=report.round, kind="failed", reason=reason)

    def _allowed(self) -> int:
        """Return the bytes of the largest message that the node may send now."""
        return answer_size.allowed(order for order, _ in self._open.values())

    def _answered(self, message: Message) -> None:
        if not isinstance(message, Report | Failure):
            raise ProtocolError(f"{type(message).__name__.lower()} where an answer was due")
        order, _ = self._open.get(message.order, (None, None))
        if order is None or (message.worker, message.round) != (self.node, order.round):
            raise ProtocolError(f"an answer to {printable(message.order, 64)}, which is no open order")
        if isinstance(message, Failure):
            message = _checked(message)
        else:
            self.contact.pauses.again()  # the link has been good for something
            self._transfers.progress.restart()
        self._resolve(message.order, message)

    def _resolve(self, order: str, answer: Answer) -> None:
        _, then = self._open.pop(order, (None, None))
        if then is not None:
            then(answer)

    def _down(self, channel: Channel, reason: str, kind: Kind) -> None:
        self._channel = None
        self._before = (self._before[0] + channel.sent, self._before[1] + channel.received)
        self.up.clear()
        self.contact.trouble = reason
        progress = self._transfers.progress.take()
        if progress:
            self.contact.pauses.again()
        self.away_since = asyncio.get_running_loop().time()
        for order, _ in list(self._open.values()):
            code: Code = "transfer" if self._transfers.inside or order.id in self._sending else ""
            code = "progress" if progress else code
            self._resolve(order.id, _failure(order, kind, reason, code if kind == "lost" else ""))
        self._sending.clear()


def _failure(order: Order, kind: Kind, reason: str, code: Code = "") -> Failure:
    return Failure(order=order.id, worker=order.worker, round=order.round, kind=kind, reason=reason, code=code)


def _checked(failure: Failure) -> Failure:
    """Return a node's failure without what only this side may state, and with a bounded wait."""
    kind = failure.kind if failure.kind == "refused" else "failed"
    code = failure.code if kind == "refused" and failure.code in ("permanent", "later") else ""
    wait = min(max(failure.wait, SHORTEST_WAIT), LONGEST_WAIT) if code == "later" else 0.0
    return replace(failure, kind=kind, reason=printable(failure.reason), code=code, wait=wait)
