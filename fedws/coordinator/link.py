"""The coordinator's end of one node: dialled as long as the run lasts, orders out, answers in."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from fedws.blobs import Blobs
from fedws.closing import CloseCode
from fedws.coordinator.greeting import Greeting
from fedws.coordinator.meeting import NEWER, Meeting
from fedws.errors import (
    LinkError,
    LinkLost,
    NotTaken,
    ProtocolError,
    Refused,
    RunFailed,
    TakenOver,
    Undelivered,
    UsageError,
    WrongNode,
    printable,
)
from fedws.gate import Complaints
from fedws.interfaces import Channel, Limits
from fedws.messages import Event, Failure, Joined, Left, Message, Order, Report, Welcome
from fedws.pauses import Pauses
from fedws.schemes import transport
from fedws.security import INSECURE, Security
from fedws.transfers import CHUNK, Transfers
from fedws.unfinished import UNFINISHED

log = logging.getLogger("fedws")
Answer = Report | Failure
_Found = tuple[Channel, Welcome]
Kind = Literal["lost", "failed"]
_LOST: Kind = "lost"
_FAILED: Kind = "failed"  # what would happen again is not laid on the link


class Link:
    """One node of a run. While :meth:`keep` runs it is dialled again whenever its link is down."""

    def __init__(
        self,
        node: str,
        url: str,
        role: Literal["worker", "evaluator"],
        run: str,
        dataset: str,
        limits: Limits,
        seed: int,
        security: Security,
        meeting: Meeting | None = None,
        blobs: Blobs | None = None,
    ) -> None:
        self.node = node
        self.url = url
        self.welcome: Welcome | None = None
        """What the node said of itself last; None before it was reached."""
        self.trouble = "not dialled yet"
        """Why there is no link; empty while there is one."""
        self.up = asyncio.Event()
        """Set while there is a link."""
        self.away_since = asyncio.get_running_loop().time()
        """By the loop's clock, while there is no link."""
        self.strict = role == "worker"
        """Whether a wrong node at the first contact is a mistake in the plan, which ends the run."""
        self._role = role
        self._run = run
        self._dataset = dataset
        self._limits = limits
        self._transport = transport(url)
        self._meeting = meeting
        self._security = INSECURE if self._transport.private else security
        self._channel: Channel | None = None
        self._open: dict[str, tuple[Order, Callable[[Answer], None]]] = {}
        self._before = (0, 0)
        self._pauses = Pauses(limits.silence, f"{seed}/{node}")
        self._complaints = Complaints(node)
        self._transfers = Transfers(blobs, node)
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def transferred(self) -> tuple[int, int]:
        """Bytes sent and received so far, over all links to this node."""
        (sent, received), channel, stored = self._before, self._channel, self._transfers
        sent, received = sent + stored.sent, received + stored.received
        return (sent, received) if channel is None else (sent + channel.sent, received + channel.received)

    async def keep(self, post: Callable[[Event], None]) -> None:
        """Dial, read answers, and when the link is lost dial again, until cancelled.

        ``post`` gets Joined and Left; open orders are answered before Left. At the first contact, and while ``strict``,
        raises WrongNode when it is not the node that was meant, RunFailed when it does not speak the protocol. Raises
        RunFailed when another coordinator goes on with this run; UsageError when the address is none.
        """
        newer: asyncio.Task[_Found] | None = None
        try:
            while True:
                found = await (newer or self._dial())
                # A node that dials out may do so again before its older link is known to be lost here.
                newer = None if self._meeting is None else asyncio.create_task(self._joined(self._meeting))
                await self._follow(*found, newer, post)
                await asyncio.sleep(self._pauses.next())
        finally:
            if newer is not None:
                newer.cancel()
                await asyncio.gather(newer, return_exceptions=True)

    async def _follow(
        self, channel: Channel, welcome: Welcome, newer: "asyncio.Task[_Found] | None", post: Callable[[Event], None]
    ) -> None:
        """Read answers until the link is lost, or there is a newer one."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        channel.transfers = self._transfers
        self._transfers.tell(welcome.held)
        self._transfers.tell_store(welcome.blobs)
        self._channel, self.welcome, self.trouble = channel, welcome, ""
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
            if channel.sent + channel.received > CHUNK:  # of a body, which goes on from there
                self._pauses.again()
            later = UNFINISHED * self._limits.silence
            self._forgetting = asyncio.get_running_loop().call_later(later, self._transfers.forget)
            post(Left(worker=self.node, reason=reason))
            if newer is None or not newer.done():  # else the meeting closes it
                await channel.close(told, code)  # which may take long

    async def _read(self, channel: Channel, newer: "asyncio.Task[_Found] | None") -> None:
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

    async def give(self, order: Order, then: Callable[[Answer], None]) -> None:
        """Send an order; ``then`` gets its one answer, be it a Failure of kind ``lost`` because there is no link."""
        if self._channel is None:
            return then(_failure(order, "lost", self.trouble))
        self._open[order.id] = order, then
        try:
            await self._channel.send(replace(order, held=self._transfers.held))
        except UsageError as error:  # too large, or of tensors that cannot travel
            self._resolve(order.id, _failure(order, "failed", f"its order cannot be sent: {error}"))
        except LinkError:
            pass  # the reader sees it too, and answers all that is open
        except Exception as error:  # a bug here must end the order, not leave it waiting
            self._resolve(order.id, _failure(order, "failed", f"{type(error).__name__}: {error}"))
        return None

    async def ask(self, order: Order) -> Answer:
        """:meth:`give`, and wait for the answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self.give(order, lambda found: None if answer.done() else answer.set_result(found))
        return await answer

    async def _received(self, channel: Channel) -> Message:
        """The next message; a report whose body is not to be had is a failure."""
        try:
            return await channel.receive()
        except Undelivered as error:
            report = error.message
            if not isinstance(report, Report):
                raise ProtocolError("a body in an object store, of no report") from None
            return Failure(
                order=report.order, worker=report.worker, round=report.round, kind="failed", reason=str(error)
            )

    def _answered(self, message: Message) -> None:
        if not isinstance(message, Report | Failure):
            raise ProtocolError(f"{type(message).__name__.lower()} where an answer was due")
        order, _ = self._open.get(message.order, (None, None))
        if order is None or (message.worker, message.round) != (self.node, order.round):
            raise ProtocolError(f"an answer to {printable(message.order, 64)}, which is no open order")
        if isinstance(message, Failure):  # kinds that only this side may give are no node's to claim
            kind = message.kind if message.kind == "refused" else "failed"
            message = replace(message, kind=kind, reason=printable(message.reason))
        self._pauses.again()  # the link has been good for something
        self._resolve(message.order, message)

    def _resolve(self, order: str, answer: Answer) -> None:
        _, then = self._open.pop(order, (None, None))
        if then is not None:
            then(answer)

    def _down(self, channel: Channel, reason: str, kind: Kind) -> None:
        self._channel = None
        self._before = (self._before[0] + channel.sent, self._before[1] + channel.received)
        self.up.clear()
        self.trouble = reason
        self.away_since = asyncio.get_running_loop().time()
        for order, _ in list(self._open.values()):
            self._resolve(order.id, _failure(order, kind, reason))

    async def _dial(self) -> _Found:
        """Dial until the node welcomes the run, or wait until one joins; at the first contact, the wait is said."""
        if self._meeting is not None:
            return await self._joined(self._meeting)
        said, security = self.welcome is not None, self._security
        while True:
            try:
                async with asyncio.timeout(self._limits.silence):
                    dial = self._transport.connect
                    channel = await dial(self.url, self._limits, self.node, security.tls, seal=security.seal)
            except TimeoutError:
                self.trouble = "no answer"
            except Refused as refused:
                self.trouble = str(refused)
                self._judge(refused)
            except LinkError as error:
                self.trouble = str(error)
            else:
                if welcome := await self._greeted(channel):
                    return channel, welcome
            if not said:
                self._say_waiting()
                said = True
            await asyncio.sleep(self._pauses.next())

    async def _joined(self, meeting: Meeting) -> _Found:
        """Wait until the node has joined, and welcomes the run."""
        waits = None
        if self.welcome is None:
            self.trouble = "it has not joined"
            waits = asyncio.get_running_loop().call_later(self._limits.silence / 12, self._say_waiting)
        try:
            return await meeting.find(self.node, self._greeted)
        finally:
            if waits is not None:
                waits.cancel()

    def _say_waiting(self) -> None:
        log.info("Waiting for %s at %s (%s)", self.node, self.url, self.trouble)

    async def _greeted(self, channel: Channel) -> Welcome | None:
        """The node's welcome on a link; None when it comes to nothing."""
        fetches = self._transfers.fetches
        greeting = Greeting(self._run, self.node, self._role, self._dataset, self._security, fetches)
        try:
            async with asyncio.timeout(self._limits.silence):
                return await greeting.greet(channel)
        except TimeoutError:
            trouble = "no answer"
        except Refused as refused:
            trouble = str(refused)
            self._judge(refused, greeting)
        except ProtocolError as error:
            trouble = f"broke the protocol: {error}"
            self._judge(error, greeting)
        except LinkError as error:
            trouble = str(error)
        if self._channel is None:
            self.trouble = trouble
        if self._meeting is not None:
            self._complaints.hear(f"somebody joined who was not taken for it: {trouble}")
        return None

    def _judge(self, error: Refused | ProtocolError, greeting: Greeting | None = None) -> None:
        """End the run if this is its first contact with a node that is not the one that was meant.

        Anybody can join and say that it is, so one that has not proved anything is only turned away.
        """
        unproved = self._meeting is not None and not (greeting is not None and greeting.proved)
        if not self.strict or self.welcome is not None or unproved:
            return
        if isinstance(error, ProtocolError):
            raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        if error.kind != "busy":
            raise WrongNode(f"{self.node} at {self.url}: {error}") from None


def _failure(order: Order, kind: Kind, reason: str) -> Failure:
    return Failure(order=order.id, worker=order.worker, round=order.round, kind=kind, reason=reason)
