"""A node on its links: serves one run at a time, off the event loop, and survives whatever a peer sends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from fedws.core.error_location import placed
from fedws.core.errors import LinkError, LinkLost, ProtocolError, Refused, Undelivered, UsageError, printable
from fedws.core.limits import USUAL, Accepted
from fedws.core.rate_limited_log import BURST, Complaints, at
from fedws.network.base import Channel, Limits, Transport
from fedws.network.lookup import transport
from fedws.node.answer_cache import UNFINISHED, Unfinished
from fedws.node.run_lease import Turn, Turns, while_up
from fedws.node.worker import Worker
from fedws.object_store.base import Shelf
from fedws.protocol import handshake
from fedws.protocol.close_codes import CloseCode, code_of
from fedws.protocol.encoder import VERSION
from fedws.protocol.messages import Failure, Hello, Message, Order, Proof, Refusal, Report, Welcome
from fedws.protocol.run_claim import Claim
from fedws.security.credentials import INSECURE, Security, default

log = logging.getLogger("fedws")
LONGEST = 128
"""Characters of an order's id."""
SEEN = 4096
"""Ids of the last orders of a link; one that comes a second time breaks the protocol."""


class Service:
    """Runs a :class:`Worker` behind links: handshake, then orders one after the other, each with its answer."""

    def __init__(
        self, worker: Worker, limits: Limits, security: Security = INSECURE, shelf: Shelf | None = None
    ) -> None:
        worker.check()
        self._worker = worker
        self._limits = limits
        self._security = security
        self._turns = Turns(worker.node, limits.silence)
        self._turned_away = ""
        self._complaints = Complaints(worker.node)
        self._runs, self._refused, self._bodies = (Complaints(worker.node, BURST) for _ in range(3))
        self._unfinished = Unfinished(worker.node, shelf)
        self._forgetting: asyncio.TimerHandle | None = None
        self._accepted = USUAL
        self.orders = 0
        """How many have come so far."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=worker.node)

    def close(self) -> None:
        """End the node's thread; no link is served any more."""
        self._remember()
        self._thread.shutdown()

    async def handle(self, channel: Channel, first: Message | None = None) -> None:
        """Serve one link until it closes; ``first`` has been received on it already."""
        try:
            async with asyncio.timeout(self._limits.silence / 6):
                hello, claim = await self._meet(channel, first)
        except TimeoutError:
            return await channel.close("no hello in time")
        except Refused as refused:
            self._complaints.hear(f"a caller{at(channel.address)} was refused: {refused}")
            with contextlib.suppress(LinkError):
                await channel.send(Refusal(kind=refused.kind, reason=str(refused)))
            return await channel.close()
        except (ProtocolError, Undelivered) as error:
            self._complaints.hear(f"a caller{at(channel.address)} was refused: {error}")
            return await channel.close(str(error), CloseCode.NOT_TAKEN)
        except LinkLost:
            return None
        with contextlib.suppress(LinkError):
            await self._greet(channel, hello, claim)
        return await channel.close()

    async def _meet(self, channel: Channel, first: Message | None = None) -> tuple[Hello, Claim]:
        """Receive ``hello`` and check the caller's proof; only then accept larger messages.

        Raises Refused when the caller does not have the key, ProtocolError, and LinkLost.
        """
        hello, key, node = first or await channel.receive(), self._security.key, self._worker.node
        takeover = ""  # a caller without a key sends no proof
        if not isinstance(hello, Hello):
            raise ProtocolError(f"{_kind(hello)} before hello")
        if hello.protocol != VERSION:  # nothing can be proved
            raise Refused("protocol", f"{node} speaks protocol {VERSION}, not {hello.protocol}")
        if key is not None:
            challenge = handshake.challenge(key.secret, hello, node)
            await channel.send(challenge)
            try:
                proof = await channel.receive()
            except LinkLost:  # most likely it has another key, and has been told so by its own side
                self._complaints.hear(f"a caller{at(channel.address)} left without a proof of the network key")
                raise
            if not isinstance(proof, Proof):
                raise ProtocolError(f"{_kind(proof)} where a proof was due")
            handshake.check(key.secret, hello, challenge, proof)
            takeover = proof.takeover
            channel.protect(handshake.session(key.secret, hello, challenge))
        tls = self._security.tls
        if tls is not None and tls.mutual and channel.peer != hello.coordinator:
            whose = channel.peer or "no node alone"
            raise Refused("key", f"{printable(hello.coordinator, 64)} shows the certificate of {whose}; see --id")
        if not self._worker.policy.admits(channel.peer):
            who = channel.peer or "a caller without a certificate"
            raise Refused("policy", f"the policy of {node} does not name {who}")
        channel.admit()
        return hello, Claim(hello.run, hello.coordinator, takeover)

    async def _greet(self, channel: Channel, hello: Hello, claim: Claim) -> None:
        greeting = self._worker.greet(hello)
        try:
            if isinstance(greeting, Welcome):
                async with self._turns.take(channel, claim) as turn:
                    closing = await self._run(channel, hello, claim, greeting, turn)
                return await closing
        except Refused as refused:
            greeting = Refusal(kind="busy", reason=str(refused))
        except LinkLost as lost:
            return await channel.close(str(lost), code_of(lost))
        except UsageError as error:  # the caller accepts less than a welcome
            return await channel.close(f"the welcome has {error}", CloseCode.NOT_TAKEN)
        if hello.run != self._turned_away:  # it may go on asking
            self._refused.hear(f"refused run {claim.shown}: {greeting.reason}")
        self._turned_away = hello.run
        return await channel.send(greeting)

    async def _run(
        self, channel: Channel, hello: Hello, claim: Claim, welcome: Welcome, turn: Turn
    ) -> asyncio.Task[None]:
        """Serve a link until its work has ended; return the closing of the link, which may take longer."""
        name, reason, trouble = claim.shown, "ended", None
        self._runs.hear(f"run {name} begins", logging.INFO)
        try:
            self._worker.begin(claim, channel.peer)
            self._remember()
            channel.transfers = self._unfinished.begin(claim)
            channel.transfers.tell_store(hello.blobs)
            self._accepted = Accepted(hello.max_message, hello.max_tensors, "the coordinator")
            channel.transfers.tell_limits(self._accepted)
            held, blobs = channel.transfers.held, channel.transfers.fetches
            await channel.send(replace(welcome, held=held, blobs=blobs, max_message=self._limits.message))
            error, closing = await self._serve(channel, turn)
            reason = f"ended: {error}"
            return closing
        except LinkError as error:
            reason = f"ended: {error}"
            raise
        except Exception as error:  # as of a store or a transport of the user's
            reason, trouble = f"ended: {placed(error)}", error
            raise
        finally:
            self._forget_in(UNFINISHED * self._limits.silence, self._unfinished.leave)
            self._runs.hear(f"run {name} {reason}", logging.INFO, trouble)

    async def _serve(self, channel: Channel, turn: Turn) -> tuple[LinkError, asyncio.Task[None]]:
        """Answer orders in turn, while reading on, so that a lost link is seen at once and stops the work.

        Gives why it ended, and the closing of the link, which begins before the work has ended: that may take longer.
        """
        orders: asyncio.Queue[tuple[Order, str]] = asyncio.Queue(1)  # with what is wrong; more stay with the sender
        seen: dict[str, None] = {}  # in their order

        async def read() -> None:
            while True:
                try:
                    message, trouble = await channel.receive(), ""
                except Undelivered as error:
                    # What its store is, and where, is not for the coordinator.
                    self._bodies.hear(f"the body of an order: {error}")
                    message, trouble = error.message, "its object store does not give the order (see its log)"
                order = self._order(message, seen)
                turn.received()
                await while_up(channel, orders.put((order, trouble)))  # what ended it is received next
                del message, order  # models, which an idle node need not hold

        async def reply() -> None:
            while True:
                order, trouble = await orders.get()
                self._remember()
                channel.transfers.tell(order.held)
                kept = self._unfinished.again(order)
                if kept is None or trouble:
                    answer = await self._threaded(self._worker.answer, order, self._accepted, trouble)
                else:
                    answer = await self._threaded(self._worker.repeat, order, kept, self._accepted)
                self._unfinished.keep(order, answer)
                try:
                    await channel.send(answer)
                except UsageError as error:  # nothing of it was sent
                    answer = await self._threaded(self._worker.replaced, order, error, self._accepted)
                    self._unfinished.keep(order, answer)
                    await channel.send(answer)
                turn.answered()
                del order, answer, kept  # models, which an idle node need not hold
                self._forget_in(self._limits.silence, self._unfinished.forget)  # a lost link is known by then

        async def give_way() -> None:
            await turn.over.wait()
            raise turn.reason

        tasks = [asyncio.create_task(end()) for end in (read, reply, give_way)]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next(error for task in tasks if task in ended and (error := task.exception()))
            if not isinstance(error, LinkError):
                raise error
            return error, asyncio.create_task(channel.close(str(error), code_of(error)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _remember(self) -> None:
        """Do not forget what the run's next link could go on with."""
        if self._forgetting is not None:
            self._forgetting.cancel()

    def _forget_in(self, seconds: float, forget: Callable[[], object]) -> None:
        self._remember()
        self._forgetting = asyncio.get_running_loop().call_later(seconds, forget)

    async def _threaded(self, work: Callable[..., Report | Failure], *given: Any) -> Report | Failure:
        """Return an answer that is made, and written down, in the node's thread.

        When cancelled, stop the task and wait for the thread; an answer made all the same is kept for the next link.
        """
        working = asyncio.get_running_loop().run_in_executor(self._thread, work, *given)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            self._worker.stop()
            working.add_done_callback(partial(self._made, given[0], self._unfinished.claim))
            await asyncio.wait([working])
            raise

    def _made(self, order: Order, claim: Claim, working: asyncio.Future[Report | Failure]) -> None:
        """Keep what the thread made after its link was lost, unless another run has the node."""
        self._worker.resume()
        if not working.cancelled() and working.exception() is None and claim is self._unfinished.claim:
            self._unfinished.keep(order, working.result())

    def _order(self, message: Message, seen: dict[str, None]) -> Order:
        if not isinstance(message, Order):
            raise ProtocolError(f"{_kind(message)} where an order was due")
        if message.worker != self._worker.node:
            raise ProtocolError(f"an order for {printable(message.worker, 64)}; this is {self._worker.node}")
        if len(message.id) > LONGEST:
            raise ProtocolError(f"an order's id of {len(message.id)} characters; at most {LONGEST}")
        if message.id in seen:
            raise ProtocolError(f"order {printable(message.id, 64)} a second time")
        seen[message.id] = None
        self.orders += 1
        if len(seen) > SEEN:
            del seen[next(iter(seen))]
        return message


def asked(worker: Worker, way: Transport, security: Security | None) -> Security:
    """What a node asks of its callers: the user's own key where nothing else is said and strangers may come."""
    security = security or (INSECURE if way.private else default())
    if security.key is None and not way.private:
        log.warning(
            "%s takes part --insecure: whoever reaches it may have it train, and read what comes of it", worker.node
        )
    return security


@contextlib.asynccontextmanager
async def serving(
    worker: Worker,
    url: str,
    limits: Limits | None = None,
    security: Security | None = None,
    shelf: Shelf | None = None,
) -> AsyncIterator[str]:
    """Serve ``worker`` at ``url`` while the context lasts; gives the URL. Raises UsageError when it cannot listen.

    With ``shelf``, large bodies go through its object store, if the coordinator has one too. Without ``security``
    callers must know the user's own network key, but for ``memory://``, which no stranger reaches.
    """
    limits, way = limits or Limits(), transport(url)
    security = asked(worker, way, security)
    theirs = replace(security, tls=None) if way.shared else security  # at a broker no node shows a certificate
    with contextlib.closing(Service(worker, limits, theirs, shelf)) as service:
        served = way.serve(url, service.handle, limits, security.tls, node=worker.node, seal=security.seal)
        async with served as address:
            yield address


def _kind(message: Message) -> str:
    return type(message).__name__.lower()
