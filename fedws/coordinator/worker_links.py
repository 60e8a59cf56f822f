"""The workers of a run together: their links, their open requests, and what is heard of them."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from fedws.coordinator.clock import monotonic_seconds
from fedws.coordinator.link import Link
from fedws.coordinator.server_trainer import ServerTrainer
from fedws.core.error_text import describe_with_location
from fedws.core.errors import RunFailed
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Answer, TaskRequest, TaskResult
from fedws.scheduling.events import Event, ResponseTimed, WorkerAvailable, WorkerConnected, WorkerDisconnected


class WorkerLinks:
    """Keeps the links of all workers while the context lasts, and queues what happens on them."""

    def __init__(
        self,
        links: Mapping[str, Link],
        peer_timeout: float,
        *,
        wait_forever: bool = False,
        server_trainer: ServerTrainer | None = None,
    ) -> None:
        self.links = links
        self._server_trainer = server_trainer
        self._peer_timeout = peer_timeout
        self._wait_forever = wait_forever
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._link_tasks: list[asyncio.Task[None]] = []
        self._open_requests: dict[str, tuple[str, float, asyncio.Task[None]]] = {}
        self._postponement_timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def busy_workers(self) -> list[str]:
        """Who has a request open."""
        return sorted({worker for worker, _, _ in self._open_requests.values()})

    @property
    def postponed_seconds(self) -> dict[str, float]:
        """For how many seconds each worker that has refused until later gets no request."""
        now = asyncio.get_running_loop().time()
        return {worker: timer.when() - now for worker, timer in sorted(self._postponement_timers.items())}

    @property
    def has_event(self) -> bool:
        """Whether there is an event already."""
        return not self._events.empty()

    @property
    def bytes_transferred(self) -> tuple[int, int]:
        """Bytes sent and received so far."""
        sent, received = zip(*(link.bytes_transferred for link in self.links.values()), strict=True)
        return sum(sent), sum(received)

    @property
    def worker_labels(self) -> dict[str, list[int]]:
        """The labels that each worker declared; none for one that was never there."""
        return {worker: link.welcome.labels if link.welcome else [] for worker, link in self.links.items()}

    async def __aenter__(self) -> Self:
        for worker, link in self.links.items():
            task = asyncio.create_task(link.run(self._events.put_nowait), name=worker)
            task.add_done_callback(self._handle_link_end)
            self._link_tasks.append(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all links: the workers are free."""
        for timer in self._postponement_timers.values():
            timer.cancel()
        tasks = [*self._link_tasks, *(task for _, _, task in self._open_requests.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_until_connected(self, min_workers: int) -> dict[str, int]:
        """Wait until all are there, at most ``peer_timeout`` seconds; then ``min_workers`` are enough.

        Gives who is there, and how many samples each holds. Raises RunFailed, naming who was awaited, when there are
        fewer, unless it waits forever.
        """
        connected: dict[str, int] = {}
        until: float | None = asyncio.get_running_loop().time() + self._peer_timeout
        while len(connected) < len(self.links) and (until is not None or len(connected) < min_workers):
            try:
                async with asyncio.timeout_at(until):
                    event = await self.next_event()
            except TimeoutError:
                if len(connected) < min_workers and not self._wait_forever:
                    raise RunFailed(self.describe_unreachable(self.links.keys() - connected)) from None
                until = None
                continue
            if isinstance(event, WorkerConnected):
                connected[event.worker] = event.num_examples
            elif isinstance(event, WorkerDisconnected):
                connected.pop(event.worker, None)
        for link in self.links.values():  # from now on a wrong node is one that is away
            link.connector.fail_on_unexpected_node = False
        return {worker: connected[worker] for worker in self.links if worker in connected}

    def describe_unreachable(self, workers: set[str]) -> str:
        """That workers were awaited in vain, where, and why."""
        where = (
            f"{link.node} at {link.url} ({link.last_error})" for link in self.links.values() if link.node in workers
        )
        return f"waited {self._peer_timeout:g} s in vain for {', '.join(where)}"

    def send_request(self, request: TaskRequest) -> None:
        """Send a request; its answer becomes an event, a TaskResult after a ResponseTimed with its duration."""
        is_server_request = self._server_trainer is not None and request.worker == DEFAULT_COORDINATOR_ID
        work = (
            self._run_server_task(request)
            if is_server_request
            else self.links[request.worker].send_request(request, self._handle_answer)
        )
        self._open_requests[request.request_id] = request.worker, monotonic_seconds(), asyncio.create_task(work)

    async def _run_server_task(self, request: TaskRequest) -> None:
        """Have the server trainer carry out a request; the end of its process ends the run."""
        assert self._server_trainer is not None
        try:
            self._handle_answer(await self._server_trainer.execute(request))
        except RunFailed as error:
            self._events.put_nowait(error)
        except Exception as error:  # a bug here must end the run, not leave it waiting
            self._events.put_nowait(RunFailed(f"the coordinator's own node: {describe_with_location(error)}"))

    async def next_event(self) -> Event:
        """The next event. Raises what ended the keeping of a link, as UnexpectedNode."""
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _handle_answer(self, answer: Answer) -> None:
        _, began, _ = self._open_requests.pop(answer.request_id)
        if isinstance(answer, TaskResult):  # to fail, or to be lost, is not to be fast
            self._events.put_nowait(ResponseTimed(worker=answer.worker, seconds=monotonic_seconds() - began))
        elif answer.code == "retry_later":
            later = asyncio.get_running_loop().call_later(answer.retry_after, self._end_postponement, answer.worker)
            self._postponement_timers[answer.worker] = later
        self._events.put_nowait(answer)

    def _end_postponement(self, worker: str) -> None:
        del self._postponement_timers[worker]
        self._events.put_nowait(WorkerAvailable(worker=worker))

    def _handle_link_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._events.put_nowait(error)
