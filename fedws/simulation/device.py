"""Simulated devices, which are workers with real training, and with simulated speed and connection times."""

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
    """The speed of a device."""

    seconds_per_sample: float
    """Training time in seconds per sample."""
    bytes_per_second: float = 0.0
    """Bandwidth in bytes per second in each direction. 0 means that messages take no time."""

    def estimate_work_seconds(self, request: TaskRequest, num_examples: int) -> float:
        """Return the seconds of the work of a request on ``num_examples`` samples, computed from its settings.

        Return 0 if the settings do not determine the amount of work.
        """
        max_batches, size, epochs = (
            request.settings.get(name) for name in ("max_local_batches", "batch_size", "epochs")
        )
        if not (
            isinstance(max_batches, int)
            and isinstance(size, int)
            and isinstance(epochs, int)
            and size > 0
            and num_examples > 0
        ):
            return 0.0
        if request.settings.get("drop_last") is True:
            num_examples -= num_examples % size
        batches_per_epoch = -(-num_examples // size)  # the last batch may be smaller
        whole_epochs = min(epochs, max_batches // batches_per_epoch)
        rest = min(max_batches - whole_epochs * batches_per_epoch, batches_per_epoch) if whole_epochs < epochs else 0
        return self.seconds_per_sample * (whole_epochs * num_examples + min(rest * size, num_examples))

    def work_seconds(self, result: TaskResult) -> float:
        """Return the seconds of the work for a result with the samples of its metric ``num_examples``.

        If the metric is missing, all samples of the worker count.
        """
        samples = result.metrics.get("num_examples", result.num_examples)
        return self.seconds_per_sample * (samples if isinstance(samples, int) else result.num_examples)

    def transfer_seconds(self, message: TaskRequest | TaskResult) -> float:
        """Return the seconds of the transfer of the tensors of a message."""
        size = sum(tensor.nbytes for tensor in message.tensors.values())
        return size / self.bytes_per_second if self.bytes_per_second else 0.0


class Device:
    """One worker of a fleet, at ``memory://ID``.

    ``availability`` yields pairs of the seconds for which the device is connected and then offline. When the device
    disconnects, its links close and its current work is lost. Its address is unreachable until it reconnects.
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
        """Connect and disconnect until cancelled, or until ``availability`` is exhausted."""
        with contextlib.closing(NodeServer(self._worker, limits)) as service:
            for online_seconds, offline_seconds in self._availability:
                links: list[SlowChannel] = []

                async def handle(channel: Channel, links: list[SlowChannel] = links) -> None:
                    link = SlowChannel(channel, self.node, self._speed, self._event_log, self._tensor_cache)
                    links.append(link)
                    try:
                        await service.handle(link)
                    finally:
                        links.remove(link)

                async with find_transport(self.url).serve(self.url, handle, limits):
                    await asyncio.sleep(online_seconds)
                    for request in [request for link in links for request in link.open_requests]:
                        self._event_log.write("lost", worker=self.node, request_id=request)
                    self._event_log.write("disconnected", worker=self.node)
                await asyncio.sleep(offline_seconds)


class SlowChannel:
    """The device's end of a link, on which transfers and work take virtual time.

    See ``fedws.network.base.Channel``. If the settings of a request determine the amount of work, its time passes
    before the device receives the request. Work that is lost or not finished at the end of the run is therefore never
    computed. The rest of the time passes before the result is sent.
    """

    def __init__(
        self, channel: Channel, node: str, speed: DeviceSpeed, event_log: EventLog, tensor_cache: TensorCache
    ) -> None:
        self.open_requests: dict[str, float] = {}
        """Virtual time in seconds at which each unanswered request arrived, by request id."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.peer, self.address, self.encryption = channel.peer, channel.address, channel.encryption
        self._channel = channel
        self._node = node
        self._speed = speed
        self._event_log = event_log
        self._tensor_cache = tensor_cache
        self._num_examples = 0
        self._work_seconds_passed: dict[str, float] = {}

    async def receive(self) -> Message:
        """Return the next message. A request is returned after the time of its transfer and its work."""
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
        """Send one message. A result is sent after the time of its transfer and of work that has not passed yet."""
        if isinstance(message, TaskResult):
            remaining = max(
                0.0, self._speed.work_seconds(message) - self._work_seconds_passed.pop(message.request_id, 0.0)
            )
            await asyncio.sleep(remaining + self._speed.transfer_seconds(message))
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
        """Return True if a message is being received or a request is not answered yet."""
        return self._channel.is_receiving or bool(self.open_requests)

    def mark_authenticated(self) -> None:
        """Accept messages of any size that the limits allow."""
        self._channel.mark_authenticated()

    @property
    def transfers(self) -> BodyTransfers:
        """Return the body transfers of the underlying channel."""
        return self._channel.transfers

    @transfers.setter
    def transfers(self, transfers: BodyTransfers) -> None:
        """Set the body transfers of the underlying channel."""
        self._channel.transfers = transfers

    def set_session_key(self, session_key: bytes) -> None:
        """Do nothing, because both ends of the link are in this process."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link."""
        await self._channel.close(reason, code)

    async def wait_closed(self) -> None:
        """Wait until the link is closed."""
        await self._channel.wait_closed()

    def _close_request(self, request_id: str) -> float:
        now = asyncio.get_running_loop().time()
        return round(now - self.open_requests.pop(request_id, now), 6)

    def _log_event(self, event: str, request_id: str, **fields: object) -> None:
        self._event_log.write(event, worker=self._node, request_id=request_id, **fields)
