"""A node on its links: serves one run at a time, off the event loop, and survives whatever a peer sends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from fedws import registry
from fedws.errors import LinkError, LinkLost, ProtocolError, UsageError, printable
from fedws.interfaces import Channel, Limits, Transport
from fedws.messages import Failure, Hello, Message, Order, Refusal, Report
from fedws.worker import Worker

log = logging.getLogger("fedws")


class Service:
    """Runs a :class:`Worker` behind links: handshake, then orders one after the other, each with its answer."""

    def __init__(self, worker: Worker, limits: Limits) -> None:
        self._worker = worker
        self._limits = limits
        self._run: str | None = None
        self._turned_away = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=worker.node)

    def close(self) -> None:
        """End the node's thread; no link is served any more."""
        self._thread.shutdown()

    async def handle(self, channel: Channel) -> None:
        """Serve one link until it closes."""
        try:
            async with asyncio.timeout(self._limits.silence / 6):
                hello = await channel.receive()
                if not isinstance(hello, Hello):
                    raise ProtocolError(f"{type(hello).__name__.lower()} before hello")
        except TimeoutError:
            return await channel.close("no hello in time")
        except ProtocolError as error:
            log.warning("%s: a peer was turned away: %s", self._worker.node, error)
            return await channel.close(str(error))
        except LinkLost:
            return None
        with contextlib.suppress(LinkError):
            await self._greet(channel, hello)
        return await channel.close()

    async def _greet(self, channel: Channel, hello: Hello) -> None:
        greeting = self._worker.greet(hello)
        if self._run is not None and not isinstance(greeting, Refusal):
            greeting = Refusal(kind="busy", reason=f"{self._worker.node} is busy with run {self._run}")
        if isinstance(greeting, Refusal):
            if hello.run != self._turned_away:  # it may go on asking
                log.warning("%s: refused run %s: %s", self._worker.node, printable(hello.run, 64), greeting.reason)
            self._turned_away = hello.run
            return await channel.send(greeting)
        self._run = printable(hello.run, 64)
        log.info("%s: run %s begins", self._worker.node, self._run)
        reason = "ended"
        try:
            await channel.send(greeting)
            await self._serve(channel)
        except LinkError as error:
            reason = f"ended: {error}"
            if isinstance(error, ProtocolError):
                await channel.close(str(error))
        finally:
            log.info("%s: run %s %s", self._worker.node, self._run, reason)
            self._run = None
        return None

    async def _serve(self, channel: Channel) -> None:
        """Answer orders in turn, while reading on, so that a lost link is seen at once and stops the work."""
        orders: asyncio.Queue[Order] = asyncio.Queue(1)  # more stay with the sender

        async def read() -> None:
            while True:
                await orders.put(self._order(await channel.receive()))

        async def answer() -> None:
            while True:
                order = await orders.get()
                report = await self._work(order)
                try:
                    await channel.send(report)
                except UsageError as error:  # a task may report what cannot travel; nothing of it was sent
                    await channel.send(self._worker.failure(order, "failed", str(error)))

        tasks = [asyncio.create_task(read()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _work(self, order: Order) -> Report | Failure:
        """Carry out one order in the node's thread; when cancelled, tell it to stop and wait until it has."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._worker.answer, order)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._worker.stop()
            await asyncio.wait([work])
            self._worker.resume()
            raise

    def _order(self, message: Message) -> Order:
        if not isinstance(message, Order):
            raise ProtocolError(f"{type(message).__name__.lower()} where an order was due")
        if message.worker != self._worker.node:
            raise ProtocolError(f"an order for {printable(message.worker, 64)}; this is {self._worker.node}")
        return message


@contextlib.asynccontextmanager
async def serving(worker: Worker, url: str, limits: Limits | None = None) -> AsyncIterator[str]:
    """Serve ``worker`` at ``url`` while the context lasts; gives the URL. Raises UsageError when it cannot listen."""
    limits = limits or Limits()
    with contextlib.closing(Service(worker, limits)) as service:
        async with transport(url).serve(url, service.handle, limits) as address:
            yield address


def transport(url: str) -> Transport:
    """The transport for a URL's scheme. Raises UsageError, listing the schemes, when there is none."""
    scheme = urlsplit(url).scheme
    if scheme not in registry.names("transport"):
        raise UsageError(f"{url}: nobody serves {scheme}://; there are {', '.join(registry.names('transport'))}")
    kind: type[Transport] = registry.find("transport", scheme)
    return kind()
