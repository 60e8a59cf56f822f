"""A simulated device: a worker whose training is real, and whose slowness and absences are drawn."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedws.network.base import Channel, Limits
from fedws.network.body_transfer import BodyTransfers
from fedws.network.lookup import find_transport
from fedws.node.server import NodeServer
from fedws.node.worker import Worker
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Message, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.simulation.event_log import EventLog
from fedws.simulation.tensor_cache import TensorCache


@dataclass(frozen=True)
class DeviceSpeed:
    """How long a device takes."""

    seconds_per_sample: float
    """Seconds to train on one sample."""
    bytes_per_second: float = 0.0
    """Bytes a second, each way; 0: messages take no time."""

    def estimate_work_seconds(self, request: TaskRequest, num_examples: int) -> float:
        """Seconds that a request's settings say its work will take on ``num_examples`` samples; 0 where they do not
        say."""
        left, size, epochs = (request.settings.get(name) for name in ("max_local_batches", "batch_size", "epochs"))
        if not (
            isinstance(left, int)
            and isinstance(size, int)
            and isinstance(epochs, int)
            and size > 0
            and num_examples > 0
        ):
            return 0.0
        if request.settings.get("drop_last") is True:
            num_examples -= num_examples % size
        each = -(-num_examples // size)  # batches of an epoch, the last of which may be short
        whole = min(epochs, left // each)
        rest = min(left - whole * each, each) if whole < epochs else 0
        return self.seconds_per_sample * (whole * num_examples + min(rest * size, num_examples))

    def work_seconds(self, result: TaskResult) -> float:
        """Return the seconds behind a result: for its metric ``num_examples``, or else for all that the worker has."""
        samples = result.metrics.get("num_examples", result.num_examples)
        return self.seconds_per_sample * (samples if isinstance(samples, int) else result.num_examples)

    def transfer_seconds(self, message: TaskRequest | TaskResult) -> float:
        """Seconds that a message's tensors take on their way."""
        size = sum(tensor.nbytes for tensor in message.tensors.values())
        return size / self.bytes_per_second if self.bytes_per_second else 0.0


class Device:
    """One worker of a fleet, at ``memory://ID``.

    ``availability`` gives, in turn, for how many seconds it is there and then away. As it leaves its links close, what
    it was working on is lost, and nobody answers at its address until it is back.
    """

    def __init__(
        self,
        worker: Worker,
        speed: DeviceSpeed,
        availability: Iterator[tuple[float, float]],
        event_log: EventLog,
        tensor_cache: TensorCache | None = None,
    ) -> None:
        self.node = worker.node
        self.url = f"memory://{worker.node}"
        self._worker = worker
        self._speed = speed
        self._availability = availability
        self._event_log = event_log
        self._tensor_cache = tensor_cache or TensorCache()

    async def run(self, limits: Limits) -> None:
        """Come and go until cancelled, or until its availability has no more entries."""
        with contextlib.closing(NodeServer(self._worker, limits)) as service:
            for there, away in self._availability:
                links: list[SlowChannel] = []

                async def handle(channel: Channel, links: list[SlowChannel] = links) -> None:
                    link = SlowChannel(channel, self.node, self._speed, self._event_log, self._tensor_cache)
                    links.append(link)
                    try:
                        await service.handle(link)
                    finally:
                        links.remove(link)

                async with find_transport(self.url).serve(self.url, handle, limits):
                    await asyncio.sleep(there)
                    for request in [request for link in links for request in link.open_requests]:
                        self._event_log.write("lost", worker=self.node, request_id=request)
                    self._event_log.write("disconnected", worker=self.node)
                await asyncio.sleep(away)


class SlowChannel:
    """A device's end of a link; see :class:`fedws.network.base.Channel`. Transfers and work take their time.

    The time for work passes before the device sees the request, as far as that tells how much work it is; so what is
    lost on the way, or is still going on when the run ends, is never computed. The rest passes before its result goes.
    """

    def __init__(
        self, channel: Channel, node: str, speed: DeviceSpeed, event_log: EventLog, tensor_cache: TensorCache
    ) -> None:
        self.open_requests: dict[str, float] = {}
        """The requests that are not answered yet, and when each came, in virtual seconds."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.peer, self.address = channel.peer, channel.address
        self._channel = channel
        self._node = node
        self._speed = speed
        self._event_log = event_log
        self._tensor_cache = tensor_cache
        self._num_examples = 0
        self._work_seconds_passed: dict[str, float] = {}

    async def receive(self) -> Message:
        """The next message; a request after the time for its way and its work."""
        message = await self._channel.receive()
        self.bytes_received = self._channel.bytes_received
        if isinstance(message, TaskRequest):
            message = replace(message, tensors=self._tensor_cache.deduplicate(message.tensors))
            self.open_requests[message.request_id] = asyncio.get_running_loop().time()
            self._work_seconds_passed[message.request_id] = self._speed.estimate_work_seconds(
                message, self._num_examples
            )
            self._log_event("request", message.request_id, round=message.round, task=message.task)
            await asyncio.sleep(self._speed.transfer_seconds(message) + self._work_seconds_passed[message.request_id])
        return message

    async def send(self, message: Message) -> None:
        """Send one message; a result after the time for its way, and for work that its request did not tell of."""
        if isinstance(message, TaskResult):
            more = max(0.0, self._speed.work_seconds(message) - self._work_seconds_passed.pop(message.request_id, 0.0))
            await asyncio.sleep(more + self._speed.transfer_seconds(message))
            self._log_event(
                "result",
                message.request_id,
                seconds=self._close_request(message.request_id),
                num_examples=message.num_examples,
            )
        elif isinstance(message, TaskFailure):
            self._close_request(message.request_id)
            self._log_event("failure", message.request_id, kind=message.kind, reason=message.reason)
        elif isinstance(message, Welcome):
            self._num_examples = message.num_examples
            self._event_log.write("connected", worker=self._node)
        await self._channel.send(message)
        self.bytes_sent = self._channel.bytes_sent

    @property
    def is_receiving(self) -> bool:
        """Whether a request is on its way."""
        return self._channel.is_receiving or bool(self.open_requests)

    def mark_authenticated(self) -> None:
        """Take messages of any size that the limits allow."""
        self._channel.mark_authenticated()

    @property
    def transfers(self) -> BodyTransfers:
        """How bodies travel."""
        return self._channel.transfers

    @transfers.setter
    def transfers(self, transfers: BodyTransfers) -> None:
        """Those of the link itself."""
        self._channel.transfers = transfers

    def set_session_key(self, session_key: bytes) -> None:
        """Nobody else is in this process."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link."""
        await self._channel.close(reason, code)

    async def wait_closed(self) -> None:
        """Wait until it is."""
        await self._channel.wait_closed()

    def _close_request(self, request_id: str) -> float:
        now = asyncio.get_running_loop().time()
        return round(now - self.open_requests.pop(request_id, now), 6)

    def _log_event(self, event: str, request_id: str, **fields: object) -> None:
        self._event_log.write(event, worker=self._node, request_id=request_id, **fields)
