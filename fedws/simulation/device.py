"""A simulated device: a worker whose training is real, and whose slowness and absences are drawn."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedws.network.base import Channel, Limits
from fedws.network.body_transfer import Transfers
from fedws.network.lookup import transport
from fedws.node.server import Service
from fedws.node.worker import Worker
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Failure, Message, Order, Report, Welcome
from fedws.simulation.event_log import Journal
from fedws.simulation.tensor_cache import Shared


@dataclass(frozen=True)
class Pace:
    """How long a device takes."""

    sample: float
    """Seconds to train on one sample."""
    bandwidth: float = 0.0
    """Bytes a second, each way; 0: messages take no time."""

    def foretold(self, order: Order, held: int) -> float:
        """Seconds that an order's settings say its work will take on ``held`` samples; 0 where they do not say."""
        left, size, epochs = (order.settings.get(name) for name in ("batches", "batch_size", "epochs"))
        if not (isinstance(left, int) and isinstance(size, int) and isinstance(epochs, int) and size > 0 and held > 0):
            return 0.0
        if order.settings.get("drop_last") is True:
            held -= held % size
        each = -(-held // size)  # batches of an epoch, the last of which may be short
        whole = min(epochs, left // each)
        rest = min(left - whole * each, each) if whole < epochs else 0
        return self.sample * (whole * held + min(rest * size, held))

    def work(self, report: Report) -> float:
        """Seconds for the work that a report tells of: its metric ``samples``, or else all that the worker holds."""
        samples = report.metrics.get("samples", report.samples)
        return self.sample * (samples if isinstance(samples, int) else report.samples)

    def transfer(self, message: Order | Report) -> float:
        """Seconds that a message's tensors take on their way."""
        size = sum(tensor.nbytes for tensor in message.tensors.values())
        return size / self.bandwidth if self.bandwidth else 0.0


class Device:
    """One worker of a fleet, at ``memory://ID``.

    ``absences`` gives, in turn, for how many seconds it is there and then away. As it leaves its links close, what it
    was working on is lost, and nobody answers at its address until it is back.
    """

    def __init__(
        self,
        worker: Worker,
        pace: Pace,
        absences: Iterator[tuple[float, float]],
        journal: Journal,
        shared: Shared | None = None,
    ) -> None:
        self.node = worker.node
        self.url = f"memory://{worker.node}"
        self._worker = worker
        self._pace = pace
        self._absences = absences
        self._journal = journal
        self._shared = shared or Shared()

    async def live(self, limits: Limits) -> None:
        """Come and go until cancelled, or until ``absences`` has no more."""
        with contextlib.closing(Service(self._worker, limits)) as service:
            for there, away in self._absences:
                links: list[SlowChannel] = []

                async def handle(channel: Channel, links: list[SlowChannel] = links) -> None:
                    link = SlowChannel(channel, self.node, self._pace, self._journal, self._shared)
                    links.append(link)
                    try:
                        await service.handle(link)
                    finally:
                        links.remove(link)

                async with transport(self.url).serve(self.url, handle, limits):
                    await asyncio.sleep(there)
                    for order in [order for link in links for order in link.open]:
                        self._journal.tell("lost", worker=self.node, order=order)
                    self._journal.tell("left", worker=self.node)
                await asyncio.sleep(away)


class SlowChannel:
    """A device's end of a link; see :class:`fedws.network.base.Channel`. Transfers and work take their time.

    The time for work passes before the device sees the order, as far as that tells how much work it is; so what is
    lost on the way, or is still going on when the run ends, is never computed. The rest passes before its report goes.
    """

    def __init__(self, channel: Channel, node: str, pace: Pace, journal: Journal, shared: Shared) -> None:
        self.open: dict[str, float] = {}
        """The orders that are not answered yet, and when each came, in virtual seconds."""
        self.sent = 0
        self.received = 0
        self.peer, self.address = channel.peer, channel.address
        self._channel = channel
        self._node = node
        self._pace = pace
        self._journal = journal
        self._shared = shared
        self._held = 0
        self._passed: dict[str, float] = {}

    async def receive(self) -> Message:
        """The next message; an order after the time for its way and its work."""
        message = await self._channel.receive()
        self.received = self._channel.received
        if isinstance(message, Order):
            message = replace(message, tensors=self._shared.of(message.tensors))
            self.open[message.id] = asyncio.get_running_loop().time()
            self._passed[message.id] = self._pace.foretold(message, self._held)
            self._tell("order", message.id, round=message.round, task=message.task)
            await asyncio.sleep(self._pace.transfer(message) + self._passed[message.id])
        return message

    async def send(self, message: Message) -> None:
        """Send one message; a report after the time for its way, and for work that its order did not tell of."""
        if isinstance(message, Report):
            more = max(0.0, self._pace.work(message) - self._passed.pop(message.order, 0.0))
            await asyncio.sleep(more + self._pace.transfer(message))
            self._tell("answer", message.order, seconds=self._since(message.order), samples=message.samples)
        elif isinstance(message, Failure):
            self._since(message.order)
            self._tell("failure", message.order, kind=message.kind, reason=message.reason)
        elif isinstance(message, Welcome):
            self._held = message.samples
            self._journal.tell("joined", worker=self._node)
        await self._channel.send(message)
        self.sent = self._channel.sent

    @property
    def arriving(self) -> bool:
        """Whether an order is on its way."""
        return self._channel.arriving or bool(self.open)

    def admit(self) -> None:
        """Take messages of any size that the limits allow."""
        self._channel.admit()

    @property
    def transfers(self) -> Transfers:
        """How bodies travel."""
        return self._channel.transfers

    @transfers.setter
    def transfers(self, transfers: Transfers) -> None:
        """Those of the link itself."""
        self._channel.transfers = transfers

    def protect(self, secret: bytes) -> None:
        """Nobody else is in this process."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.GIVEN_UP) -> None:
        """Close the link."""
        await self._channel.close(reason, code)

    async def closed(self) -> None:
        """Wait until it is."""
        await self._channel.closed()

    def _since(self, order: str) -> float:
        now = asyncio.get_running_loop().time()
        return round(now - self.open.pop(order, now), 6)

    def _tell(self, event: str, order: str, **fields: object) -> None:
        self._journal.tell(event, worker=self._node, order=order, **fields)
