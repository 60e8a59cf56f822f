"""The coordinator's end of one node: dialled as long as the run lasts, requests out, answers in."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from fedws.coordinator.connector import Connector, WelcomedChannel
from fedws.coordinator.listener import REPLACED_REASON
from fedws.coordinator.open_requests import LinkFailureKind, OpenRequests
from fedws.core.error_text import summarize_error
from fedws.core.errors import (
    BodyUnavailable,
    LinkError,
    LinkLost,
    MessageRejected,
    MessageTooLarge,
    ProtocolError,
    RunFailed,
    TakenOver,
    UsageError,
)
from fedws.core.limits import MessageLimits
from fedws.network.base import Channel
from fedws.network.body_transfer import BodyTransfers
from fedws.network.stored_bodies import StoredBodies
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import (
    MESSAGE_NAMES,
    Answer,
    Message,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
    build_failure,
)
from fedws.scheduling.events import Event, WorkerConnected, WorkerDisconnected

_LOST: LinkFailureKind = "lost"
_FAILED: LinkFailureKind = "failed"  # what would happen again is not laid on the link


class Link:
    """One node of a run. While :meth:`run` runs it is dialled again whenever its link is down."""

    def __init__(self, connector: Connector, stored_bodies: StoredBodies | None = None) -> None:
        self.connector = connector
        self.node = connector.node
        self.url = connector.url
        self.welcome: Welcome | None = None
        """What the node said of itself last; None before it was reached."""
        self.connected = asyncio.Event()
        """Set while there is a link."""
        self.disconnected_since = asyncio.get_running_loop().time()
        """By the loop's clock, while there is no link."""
        self._retention = connector.limits.retention
        self._channel: Channel | None = None
        self._open_requests = OpenRequests(connector.node)
        self._bytes_on_closed_channels = (0, 0)
        self._last_request_key: tuple[object, ...] = ()
        """What tells the request that was sent last from others, however often it is sent."""
        self._transfers = BodyTransfers(
            stored_bodies, connector.node, get_max_answer_bytes=self._open_requests.max_answer_bytes
        )
        self._forget_timer: asyncio.TimerHandle | None = None

    @property
    def last_error(self) -> str:
        """Why there is no link; empty while there is one."""
        return "" if self._channel is not None else self.connector.last_error

    @property
    def bytes_transferred(self) -> tuple[int, int]:
        """Bytes sent and received so far, over all links to this node."""
        (sent, received), channel, stored = self._bytes_on_closed_channels, self._channel, self._transfers
        sent, received = sent + stored.store_bytes_sent, received + stored.store_bytes_received
        return (sent, received) if channel is None else (sent + channel.bytes_sent, received + channel.bytes_received)

    async def run(self, on_event: Callable[[Event], None]) -> None:
        """Dial, read answers, and when the link is lost dial again, until cancelled.

        ``on_event`` gets WorkerConnected and WorkerDisconnected; open requests are answered before the latter. Raises
        what :meth:`Connector.connect` does, RunFailed when another coordinator continues this run, and UsageError for
        an invalid address.
        """
        listener = self.connector.listener
        newer_channel: asyncio.Task[WelcomedChannel] | None = None
        try:
            while True:
                welcomed = await (newer_channel or self.connector.connect())
                # A node that dials out may do so again before its older link is known to be lost here.
                joining = None if listener is None else self.connector.wait_for_join(listener)
                newer_channel = None if joining is None else asyncio.create_task(joining)
                await self._use_channel(*welcomed, newer_channel, on_event)
                await asyncio.sleep(self.connector.backoff.next_delay())
        finally:
            if newer_channel is not None:
                newer_channel.cancel()
                await asyncio.gather(newer_channel, return_exceptions=True)

    async def _use_channel(
        self,
        channel: Channel,
        welcome: Welcome,
        newer_channel: "asyncio.Task[WelcomedChannel] | None",
        on_event: Callable[[Event], None],
    ) -> None:
        """Read answers until the link is lost, or there is a newer one."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        channel.transfers = self._transfers
        self._transfers.set_peer_offsets(welcome.resume_offsets)
        self._transfers.set_peer_has_body_store(welcome.has_body_store)
        self._transfers.set_peer_limits(MessageLimits(welcome.max_message_bytes, welcome.max_tensors, self.node))
        self._channel, self.welcome = channel, welcome
        self.connected.set()
        on_event(WorkerConnected(worker=self.node, num_examples=welcome.num_examples))
        reason = close_reason = "the coordinator ends"
        kind, code = _LOST, CloseCode.APPLICATION_ERROR
        try:
            await self._read_answers(channel, newer_channel)
        except ProtocolError as error:
            close_reason, code = str(error), CloseCode.MESSAGE_REJECTED
            reason, kind = f"broke the protocol: {close_reason}", _FAILED
        except LinkError as error:
            reason, close_reason = f"link lost: {error}", ""
            kind = _FAILED if isinstance(error, MessageRejected) else _LOST
            if isinstance(error, TakenOver):  # two that dial again would take it from each other for ever
                raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        finally:
            self._handle_disconnect(channel, reason, kind)
            loop = asyncio.get_running_loop()
            self._forget_timer = loop.call_later(self._retention, self._transfers.discard_partial)
            on_event(WorkerDisconnected(worker=self.node, reason=reason))
            if newer_channel is None or not newer_channel.done():  # else the listener closes it
                await channel.close(close_reason, code)  # which may take long

    async def _read_answers(self, channel: Channel, newer_channel: "asyncio.Task[WelcomedChannel] | None") -> None:
        """Raises why it ended."""

        async def read() -> None:
            while True:
                self._handle_message(await self._receive_message(channel))

        reading = asyncio.create_task(read())
        try:
            await asyncio.wait([reading, *filter(None, [newer_channel])], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            raise LinkLost(REPLACED_REASON)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def send_request(self, request: TaskRequest, on_answer: Callable[[Answer], None], subject: str = "") -> None:
        """Send a request; ``on_answer`` gets its one answer, also a TaskFailure of kind ``lost`` without a link.

        ``subject`` distinguishes requests of one round, such as those to score its models.
        """
        if self._channel is None:
            return on_answer(build_failure(request, "lost", self.last_error, "transfer_interrupted"))  # it was not sent
        request_key = (request.round, request.task, request.state_round, request.seed, subject)
        if request_key != self._last_request_key:
            self._last_request_key = request_key
            self._transfers.progress.reset()
        self._open_requests.add(request, on_answer)
        try:
            await self._channel.send(replace(request, resume_offsets=self._transfers.resume_offsets))
            self._open_requests.mark_sent(request.request_id)
        except UsageError as error:  # too large, or of tensors that cannot travel: it will be so each time
            reason = (
                f"the request has {error}"
                if isinstance(error, MessageTooLarge)
                else f"the request cannot be sent: {error}"
            )
            self._open_requests.resolve(request.request_id, build_failure(request, "failed", reason, "permanent"))
        except LinkError:
            pass  # the reader sees it too, and answers all that is open
        except Exception as error:  # a bug here must end the request, not leave it waiting
            self._open_requests.resolve(request.request_id, build_failure(request, "failed", summarize_error(error)))
        return None

    async def execute(self, request: TaskRequest, subject: str = "") -> Answer:
        """:meth:`send_request`, and wait for the answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self.send_request(request, lambda found: None if answer.done() else answer.set_result(found), subject)
        return await answer

    async def _receive_message(self, channel: Channel) -> Message:
        """The next message; a result whose body is not to be had is a failure."""
        try:
            return await channel.receive()
        except BodyUnavailable as error:
            result = error.message
            if not isinstance(result, TaskResult):
                raise ProtocolError("a body in an object store, of no result") from None
            return build_failure(result, "failed", str(error))

    def _handle_message(self, message: Message) -> None:
        if not isinstance(message, TaskResult | TaskFailure):
            raise ProtocolError(f"{MESSAGE_NAMES[type(message)]} where an answer was due")
        answer = self._open_requests.check_answer(message)
        if isinstance(answer, TaskResult):
            self.connector.backoff.reset()
            self._transfers.progress.reset()
        self._open_requests.resolve(answer.request_id, answer)

    def _handle_disconnect(self, channel: Channel, reason: str, kind: LinkFailureKind) -> None:
        self._channel = None
        self._bytes_on_closed_channels = (
            self._bytes_on_closed_channels[0] + channel.bytes_sent,
            self._bytes_on_closed_channels[1] + channel.bytes_received,
        )
        self.connected.clear()
        self.connector.last_error = reason
        progressed = self._transfers.progress.pop_progress()
        if progressed:
            self.connector.backoff.reset()
        self.disconnected_since = asyncio.get_running_loop().time()
        self._open_requests.fail_all(kind, reason, progressed=progressed, interrupted=self._transfers.interrupted)
