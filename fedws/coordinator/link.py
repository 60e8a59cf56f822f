"""The coordinator's link to one node, which it opens again whenever it is lost."""

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
_FAILED: LinkFailureKind = "failed"  # a cause that a new link would not remove


class Link:
    """The link to one node of a run. While ``run`` is running, a lost link is opened again."""

    def __init__(self, connector: Connector, stored_bodies: StoredBodies | None = None) -> None:
        self.connector = connector
        self._stored_bodies = stored_bodies
        self.node = connector.node
        self.url = connector.url
        self.welcome: Welcome | None = None
        """Newest welcome of the node; None before the first connection."""
        self.encryption = ""
        """Encryption of the newest connection for log lines; empty if it is not encrypted."""
        self.connected = asyncio.Event()
        """Event that is set while the link is open."""
        self.disconnected_since = asyncio.get_running_loop().time()
        """Time at which the link was lost, by the event loop's clock; used only while it is not open."""
        self._retention = connector.limits.retention
        self._channel: Channel | None = None
        self._open_requests = OpenRequests(connector.node)
        self._bytes_on_closed_channels = (0, 0)
        self._last_request_key: tuple[object, ...] = ()
        """Key of the newest request; it is the same each time the request is sent again."""
        self._transfers = BodyTransfers(
            stored_bodies, connector.node, get_max_answer_bytes=self._open_requests.max_answer_bytes
        )
        self._forget_timer: asyncio.TimerHandle | None = None

    @property
    def last_error(self) -> str:
        """Reason why the link is not open; empty while it is open."""
        return "" if self._channel is not None else self.connector.last_error

    @property
    def bytes_transferred(self) -> tuple[int, int]:
        """Numbers of bytes sent and received so far, over all connections to this node."""
        (sent, received), channel, stored = self._bytes_on_closed_channels, self._channel, self._transfers
        sent, received = sent + stored.store_bytes_sent, received + stored.store_bytes_received
        return (sent, received) if channel is None else (sent + channel.bytes_sent, received + channel.bytes_received)

    async def run(self, on_event: Callable[[Event], None]) -> None:
        """Connect and read answers until cancelled; reconnect whenever the link is lost.

        ``on_event`` gets WorkerConnected and WorkerDisconnected. Open requests are answered before the latter. Raises
        the errors of ``Connector.connect``, RunFailed if another coordinator continues this run, and UsageError
        for an invalid address.
        """
        listener = self.connector.listener
        newer_channel: asyncio.Task[WelcomedChannel] | None = None
        try:
            while True:
                welcomed = await (newer_channel or self.connector.connect())
                # A node in dial-out mode may join again before the loss of its older link is noticed here.
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
        """Read answers until the link is lost or a newer one replaces it."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        channel.transfers = self._transfers
        self._transfers.set_peer_offsets(welcome.resume_offsets)
        self._transfers.set_peer_has_body_store(welcome.has_body_store)
        self._transfers.set_peer_limits(MessageLimits(welcome.max_message_bytes, welcome.max_tensors, self.node))
        self._channel, self.welcome, self.encryption = channel, welcome, channel.encryption
        self.connected.set()
        on_event(WorkerConnected(worker=self.node, num_examples=welcome.num_examples))
        reason = close_reason = "the coordinator ends"
        kind, code = _LOST, CloseCode.NORMAL_CLOSURE
        try:
            await self._read_answers(channel, newer_channel)
        except ProtocolError as error:
            close_reason, code = str(error), CloseCode.MESSAGE_REJECTED
            reason, kind = f"broke the protocol: {close_reason}", _FAILED
        except LinkError as error:
            reason, close_reason = f"link lost: {error}", ""
            kind = _FAILED if isinstance(error, MessageRejected) else _LOST
            if isinstance(error, TakenOver):  # two reconnecting coordinators would replace each other forever
                if self._stored_bodies is not None:
                    self._stored_bodies.abandon()
                raise RunFailed(f"{self.node} at {self.url}: {error}") from None
        finally:
            self._handle_disconnect(channel, reason, kind)
            loop = asyncio.get_running_loop()
            self._forget_timer = loop.call_later(self._retention, self._transfers.discard_partial)
            on_event(WorkerDisconnected(worker=self.node, reason=reason))
            if newer_channel is None or not newer_channel.done():  # otherwise the listener closes it
                await channel.close(close_reason, code)  # may take long, so last

    async def _read_answers(self, channel: Channel, newer_channel: "asyncio.Task[WelcomedChannel] | None") -> None:
        """Read answers until the link ends. Raise ProtocolError or LinkError with the reason."""

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
        """Send a request; ``on_answer`` gets its one answer, which is a TaskFailure of kind ``lost`` without a link.

        ``subject`` distinguishes the requests of one round, for example the evaluations of its models.
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
        except UsageError as error:  # too large or with unsupported tensors, so a retry would fail too
            reason = (
                f"the request has {error}"
                if isinstance(error, MessageTooLarge)
                else f"the request cannot be sent: {error}"
            )
            self._open_requests.resolve(request.request_id, build_failure(request, "failed", reason, "permanent"))
        except LinkError:
            pass  # the reader gets this error too, and fails all open requests
        except Exception as error:  # a bug here must fail the request, not leave it open
            self._open_requests.resolve(request.request_id, build_failure(request, "failed", summarize_error(error)))
        return None

    async def execute(self, request: TaskRequest, subject: str = "") -> Answer:
        """``send_request``, and wait for the answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self.send_request(request, lambda found: None if answer.done() else answer.set_result(found), subject)
        return await answer

    async def _receive_message(self, channel: Channel) -> Message:
        """Return the next message. A result whose body cannot be fetched becomes a TaskFailure."""
        try:
            return await channel.receive()
        except BodyUnavailable as error:
            result = error.message
            if not isinstance(result, TaskResult):
                raise ProtocolError("only a result may have a body in an object store") from None
            return build_failure(result, "failed", str(error))

    def _handle_message(self, message: Message) -> None:
        if not isinstance(message, TaskResult | TaskFailure):
            raise ProtocolError(
                f"unexpected message {MESSAGE_NAMES[type(message)]!r}, expected 'task_result' or 'task_failure'"
            )
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
