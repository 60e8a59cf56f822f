"""The links to all workers of a run, with their open requests and their events."""

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
    """A context manager that keeps the links to all workers open, with a queue of their events."""

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
        """Sorted names of the workers with an open request."""
        return sorted({worker for worker, _, _ in self._open_requests.values()})

    @property
    def postponed_seconds(self) -> dict[str, float]:
        """Seconds until the next request, by name of a worker that answered ``retry_later``."""
        now = asyncio.get_running_loop().time()
        return {worker: timer.when() - now for worker, timer in sorted(self._postponement_timers.items())}

    @property
    def has_event(self) -> bool:
        """True if an event is queued."""
        return not self._events.empty()

    @property
    def bytes_transferred(self) -> tuple[int, int]:
        """Numbers of bytes sent and received so far."""
        sent, received = zip(*(link.bytes_transferred for link in self.links.values()), strict=True)
        return sum(sent), sum(received)

    @property
    def worker_labels(self) -> dict[str, list[int]]:
        """Declared labels by worker; empty for a worker that has not connected yet."""
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
        """Close all links, which frees the workers for other runs."""
        for timer in self._postponement_timers.values():
            timer.cancel()
        tasks = [*self._link_tasks, *(task for _, _, task in self._open_requests.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_until_connected(self, min_workers: int) -> dict[str, int]:
        """Wait until all workers are connected, or ``min_workers`` of them after ``peer_timeout`` seconds.

        Return the number of samples by connected worker. Raises RunFailed with the names of the missing workers if
        fewer are connected by then, unless the run waits forever.
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
        for link in self.links.values():  # from now on a wrong node counts as a disconnected one
            link.connector.fail_on_unexpected_node = False
        return {worker: connected[worker] for worker in self.links if worker in connected}

    def describe_unreachable(self, workers: set[str]) -> str:
        """Return the text of an error about unreachable workers, with their addresses and reasons."""
        where = (
            f"{link.node} at {link.url} ({link.last_error})" for link in self.links.values() if link.node in workers
        )
        return f"not connected within {self._peer_timeout:g} s: {', '.join(where)}"

    def send_request(self, request: TaskRequest) -> None:
        """Send a request, whose answer becomes an event. A ResponseTimed with the duration precedes a TaskResult."""
        is_server_request = self._server_trainer is not None and request.worker == DEFAULT_COORDINATOR_ID
        work = (
            self._run_server_task(request)
            if is_server_request
            else self.links[request.worker].send_request(request, self._handle_answer)
        )
        self._open_requests[request.request_id] = request.worker, monotonic_seconds(), asyncio.create_task(work)

    async def _run_server_task(self, request: TaskRequest) -> None:
        """Have the server trainer carry out a request, and end the run if that raises an error."""
        assert self._server_trainer is not None
        try:
            self._handle_answer(await self._server_trainer.execute(request))
        except RunFailed as error:
            self._events.put_nowait(error)
        except Exception as error:  # a bug here must end the run instead of blocking it
            self._events.put_nowait(RunFailed(f"server trainer: {describe_with_location(error)}"))

    async def next_event(self) -> Event:
        """Return the next event. Raise the error that ended the task of a link, such as UnexpectedNode."""
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _handle_answer(self, answer: Answer) -> None:
        _, began, _ = self._open_requests.pop(answer.request_id)
        if isinstance(answer, TaskResult):  # the duration of a failure is not a response time
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
