"""The coordinator's end of one node: dialled as long as the run lasts, orders out, answers in."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from fedws import handshake
from fedws.blobs import Blobs
from fedws.coordinator.meeting import Meeting
from fedws.errors import (
    LinkError,
    NotTaken,
    ProtocolError,
    Refused,
    RunFailed,
    StoreError,
    Undelivered,
    Unreachable,
    UsageError,
    WrongNode,
    printable,
)
from fedws.gate import Complaints
from fedws.interfaces import Channel, Limits
from fedws.messages import Challenge, Event, Failure, Hello, Joined, Left, Message, Order, Refusal, Report, Welcome
from fedws.pauses import Pauses
from fedws.schemes import transport
from fedws.security import INSECURE, Security
from fedws.transfers import CHUNK, Transfers
from fedws.turns import TAKEN_OVER
from fedws.wire import VERSION

log = logging.getLogger("fedws")
Answer = Report | Failure
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
        self._proved = False
        self._complaints = Complaints(node)
        self._transfers = Transfers(blobs)

    @property
    def transferred(self) -> tuple[int, int]:
        """Bytes sent and received so far, over all links to this node."""
        sent, received = self._before
        sent, received = sent + self._transfers.sent, received + self._transfers.received
        return (
            (sent, received)
            if self._channel is None
            else (sent + self._channel.sent, received + self._channel.received)
        )

    async def keep(self, post: Callable[[Event], None]) -> None:
        """Dial, read answers, and when the link is lost dial again, until cancelled.

        ``post`` gets Joined and Left; open orders are answered before Left. At the first contact, and while ``strict``,
        raises WrongNode when it is not the node that was meant, RunFailed when it does not speak the protocol. Raises
        RunFailed when another coordinator goes on with this run; UsageError when the address is none.
        """
        while True:
            channel, self.welcome = await self._dial()
            self._channel, self.trouble = channel, ""
            self.up.set()
            post(Joined(worker=self.node, samples=self.welcome.samples))
            reason = told = "the coordinator ends"
            kind = _LOST
            try:
                while True:
                    self._answered(await self._received(channel))
            except ProtocolError as error:
                told = str(error)
                reason, kind = f"broke the protocol: {told}", _FAILED
            except LinkError as error:
                reason, told = f"link lost: {error}", ""
                kind = _FAILED if isinstance(error, NotTaken) else _LOST
                if str(error) == TAKEN_OVER:  # two that dial again would take it from each other for ever
                    raise RunFailed(f"{self.node} at {self.url}: {error}") from None
            finally:
                self._down(channel, reason, kind)
                if channel.sent + channel.received > CHUNK:  # of a body, which goes on from there
                    self._pauses.again()
                post(Left(worker=self.node, reason=reason))
                await channel.close(told)  # which may take long
            await asyncio.sleep(self._pauses.next())

    async def give(self, order: Order, then: Callable[[Answer], None]) -> None:
        """Send an order; ``then`` gets its one answer, be it a Failure of kind ``lost`` because there is no link."""
        if self._channel is None:
            return then(_failure(order, "lost", self.trouble))
        self._open[order.id] = order, then
        try:
            await self._channel.send(replace(order, held=self._transfers.held))
        except (
            UsageError,
            StoreError,
        ) as error:  # too large, or of tensors that cannot travel
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

    async def _dial(self) -> tuple[Channel, Welcome]:
        """Dial until the node welcomes the run; at the first contact, the wait is said."""
        said = self.welcome is not None
        while True:
            try:
                channel = await self._reach()
                async with asyncio.timeout(self._limits.silence):
                    return channel, await self._greet(channel)
            except TimeoutError:
                self.trouble = "no answer"
            except Refused as refused:
                self.trouble = str(refused)
                if refused.kind != "busy" and self._fatal:
                    raise WrongNode(f"{self.node} at {self.url}: {refused}") from None
            except ProtocolError as error:
                self.trouble = f"broke the protocol: {error}"
                if self._fatal:
                    raise RunFailed(f"{self.node} at {self.url}: {error}") from None
            except (Unreachable, LinkError) as error:
                self.trouble = str(error)
            if self._meeting is not None:  # it said that it is the node, which anybody can say
                self._complaints.hear(f"who joined was not called: {self.trouble}")
            elif not said:
                log.info("Waiting for %s at %s (%s)", self.node, self.url, self.trouble)
                said = True
            await asyncio.sleep(self._pauses.next())

    @property
    def _fatal(self) -> bool:
        """Whether a wrong node ends the run: it is the first contact, and the node that was meant."""
        return self.strict and self.welcome is None and (self._meeting is None or self._proved)

    async def _reach(self) -> Channel:
        """A link to the node: dialled, or once the node has."""
        if self._meeting is not None:
            self.trouble = "it has not joined"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.silence / 12):
                    return await self._meeting.call(self.node)
            if self.welcome is None:
                log.info("Waiting for %s to join at %s", self.node, self.url)
            return await self._meeting.call(self.node)
        security = self._security
        async with asyncio.timeout(self._limits.silence):
            return await self._transport.connect(self.url, self._limits, self.node, security.tls, seal=security.seal)

    async def _greet(self, channel: Channel) -> Welcome:
        """Shake hands on a link, which is closed if that comes to nothing."""
        security = self._security
        key = security.key.secret if security.key is not None else None
        channel.transfers, self._proved = self._transfers, False
        try:
            nonce = handshake.nonce() if key is not None else ""
            hello = Hello(run=self._run, node=self.node, protocol=VERSION, coordinator=security.name, nonce=nonce)
            hello = replace(hello, blobs=self._transfers.fetches)
            await channel.send(hello)
            answer, unproved = await channel.receive(), "" if key is None else "says, without a proof of the key: "
            if key is not None and isinstance(answer, Challenge):
                proof = handshake.prove(key, hello, answer)
                unproved, self._proved = "", True
                await channel.send(proof)
                channel.protect(handshake.session(key, hello, answer))
                answer = await channel.receive()
            elif key is not None and isinstance(answer, Welcome):
                raise Refused("key", "it takes part --insecure, and proves nothing; give it --key-file or FEDWS_KEY")
            if isinstance(answer, Refusal):
                raise Refused(answer.kind, f"{unproved}{printable(answer.reason)}")
            if not isinstance(answer, Welcome):
                raise ProtocolError(f"{type(answer).__name__.lower()} where a welcome was due")
            if answer.role != self._role:
                raise Refused("node", f"it is {_article(answer.role)}, not {_article(self._role)}")
            if answer.dataset != self._dataset:
                raise Refused("node", f"it holds {printable(answer.dataset, 64)}, not {self._dataset}; see --dataset")
            channel.admit()
            self._transfers.tell(answer.held)
            self._transfers.tell_store(answer.blobs)
        except BaseException:
            await channel.close("the coordinator did not go on")
            raise
        return answer


def _failure(order: Order, kind: Kind, reason: str) -> Failure:
    return Failure(order=order.id, worker=order.worker, round=order.round, kind=kind, reason=reason)


def _article(role: str) -> str:
    return f"an {role}" if role == "evaluator" else f"a {role}"
