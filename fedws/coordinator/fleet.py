"""The workers of a run together: their links, their open orders, and what is heard of them."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from fedws.coordinator.link import Answer, Link
from fedws.coordinator.server_trainer import OwnNode
from fedws.core.error_location import placed
from fedws.core.errors import RunFailed
from fedws.protocol.messages import COORDINATOR, Order, Report
from fedws.scheduling.events import Available, Event, Joined, Left, Measured


def clock() -> float:
    """Seconds, finer than a loop's clock needs to be; an event loop in virtual time has a clock of its own."""
    loop = asyncio.get_running_loop()
    return float(loop.time()) if getattr(loop, "virtual", False) else time.perf_counter()


class Fleet:
    """Keeps the links of all workers while the context lasts, and queues what happens on them."""

    def __init__(
        self, links: Mapping[str, Link], silence: float, *, for_ever: bool = False, own: OwnNode | None = None
    ) -> None:
        self.links = links
        self._node = own
        self._silence = silence
        self._for_ever = for_ever
        self._queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._keeping: list[asyncio.Task[None]] = []
        self._asked: dict[str, tuple[str, float, asyncio.Task[None]]] = {}
        self._postponed: dict[str, asyncio.TimerHandle] = {}

    @property
    def waiting(self) -> list[str]:
        """Who has an order open."""
        return sorted({worker for worker, _, _ in self._asked.values()})

    @property
    def postponed(self) -> dict[str, float]:
        """For how many seconds each worker that has refused until later gets no request."""
        now = asyncio.get_running_loop().time()
        return {worker: timer.when() - now for worker, timer in sorted(self._postponed.items())}

    @property
    def heard(self) -> bool:
        """Whether there is an event already."""
        return not self._queue.empty()

    @property
    def transferred(self) -> tuple[int, int]:
        """Bytes sent and received so far."""
        sent, received = zip(*(link.transferred for link in self.links.values()), strict=True)
        return sum(sent), sum(received)

    @property
    def groups(self) -> dict[str, list[int]]:
        """The labels that each worker declared; none for one that was never there."""
        return {worker: link.welcome.labels if link.welcome else [] for worker, link in self.links.items()}

    async def __aenter__(self) -> Self:
        for worker, link in self.links.items():
            task = asyncio.create_task(link.keep(self._queue.put_nowait), name=worker)
            task.add_done_callback(self._ended)
            self._keeping.append(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all links: the workers are free."""
        for timer in self._postponed.values():
            timer.cancel()
        tasks = [*self._keeping, *(task for _, _, task in self._asked.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def gather(self, quorum: int) -> dict[str, int]:
        """Wait until all are there, at most ``silence`` seconds; then ``quorum`` are enough.

        Gives who is there, and how many samples each holds. Raises RunFailed, naming who was awaited, when there are
        fewer; with ``for_ever`` it waits on.
        """
        here: dict[str, int] = {}
        until: float | None = asyncio.get_running_loop().time() + self._silence
        while len(here) < len(self.links) and (until is not None or len(here) < quorum):
            try:
                async with asyncio.timeout_at(until):
                    event = await self.next()
            except TimeoutError:
                if len(here) < quorum and not self._for_ever:
                    raise RunFailed(self.unreached(self.links.keys() - here)) from None
                until = None
                continue
            if isinstance(event, Joined):
                here[event.worker] = event.samples
            elif isinstance(event, Left):
                here.pop(event.worker, None)
        for link in self.links.values():  # from now on a wrong node is one that is away
            link.contact.strict = False
        return {worker: here[worker] for worker in self.links if worker in here}

    def unreached(self, workers: set[str]) -> str:
        """That workers were awaited in vain, where, and why."""
        where = (f"{link.node} at {link.url} ({link.trouble})" for link in self.links.values() if link.node in workers)
        return f"waited {self._silence:g} s in vain for {', '.join(where)}"

    def give(self, order: Order) -> None:
        """Send an order; its answer becomes an event, a Report after a Measured that says how long it took."""
        own = self._node is not None and order.worker == COORDINATOR
        work = self._own(order) if own else self.links[order.worker].give(order, self._answered)
        self._asked[order.id] = order.worker, clock(), asyncio.create_task(work)

    async def _own(self, order: Order) -> None:
        """Have the coordinator's own node carry out an order; the end of its process ends the run."""
        assert self._node is not None
        try:
            self._answered(await self._node.ask(order))
        except RunFailed as error:
            self._queue.put_nowait(error)
        except Exception as error:  # a bug here must end the run, not leave it waiting
            self._queue.put_nowait(RunFailed(f"the coordinator's own node: {placed(error)}"))

    async def next(self) -> Event:
        """The next event. Raises what ended the keeping of a link, as WrongNode."""
        event = await self._queue.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _answered(self, answer: Answer) -> None:
        _, began, _ = self._asked.pop(answer.order)
        if isinstance(answer, Report):  # to fail, or to be lost, is not to be fast
            self._queue.put_nowait(Measured(worker=answer.worker, seconds=clock() - began))
        elif answer.code == "later":
            later = asyncio.get_running_loop().call_later(answer.wait, self._available, answer.worker)
            self._postponed[answer.worker] = later
        self._queue.put_nowait(answer)

    def _available(self, worker: str) -> None:
        del self._postponed[worker]
        self._queue.put_nowait(Available(worker=worker))

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._queue.put_nowait(error)
