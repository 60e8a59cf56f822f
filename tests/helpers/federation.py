"""A small federation in the process of a test: three workers and an evaluator with points in space."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import log_softmax

import fedws
from fedws.algorithms.fedavg import fit
from fedws.core import registry
from fedws.core.errors import TaskCancelled
from fedws.network.base import Limits
from fedws.node.evaluator import create_evaluator
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.training.base import Task

PATIENCE = 60.0
"""Timeout in seconds of events that normally occur immediately."""
WORKERS = ("alice", "bob", "charlie")
Serve = Callable[..., Any]


class PatientLimits(Limits):
    """Limits whose handshake timeout is long enough for a busy machine."""

    @property
    def handshake_timeout(self) -> float:
        return PATIENCE


class Points:
    """A data set of twelve points in four dimensions for each of ten labels; about half are separable."""

    title: ClassVar = "Points"
    model: ClassVar = "points_linear"

    def __init__(self, root: Path, train: bool) -> None:
        random = torch.Generator().manual_seed(1 if train else 2)
        self.targets = torch.arange(120) % 10
        self._points = torch.randn(120, 4, generator=random) + self.targets[:, None] / 2

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._points[index], self.targets[index]


class PointsLinear(nn.Module):
    """A model of one dense layer, with a buffer that counts."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 10)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities."""
        if self.training:
            self.calls.add_(1)
        return log_softmax(self.dense(points), dim=1)


class PointsNet(nn.Module):
    """A model of two dense layers, to be cut between them."""

    def __init__(self, *, inputs: int = 4) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, 11)
        self.relu = nn.ReLU()
        self.outer = nn.Linear(11, 10)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities."""
        return log_softmax(self.outer(self.relu(self.inner(points))), dim=1)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Register the data set and the models while the context lasts."""
    fedws.register("dataset", "points")(Points)
    fedws.register("model", "points_linear")(PointsLinear)
    fedws.register("model", "points_net")(PointsNet)
    try:
        yield
    finally:
        del registry._pieces["dataset", "points"]
        del registry._pieces["model", "points_linear"], registry._pieces["model", "points_net"]


@dataclass
class Gate:
    """A task that waits in its thread until the test opens it or the node stops it.

    ``held`` has the rounds that wait; all others continue at once.
    """

    task: Task = fit
    held: Sequence[int] = (1,)
    entered: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        """Wait, then run the task."""
        if order.round in self.held:
            self.entered.set()
            while not self.opened.wait(0.02):
                if workspace.stop.is_set():
                    self.stopped.set()
                    raise TaskCancelled("told to stop")
        return self.task(order, workspace)


async def happens(event: threading.Event) -> None:
    """Wait for an action of another thread."""
    assert await asyncio.to_thread(event.wait, PATIENCE), "did not happen"


def worker(node: str = "alice", task: Task = fit) -> fedws.Worker:
    """Return a worker on all points; ``traits`` is the task that it runs to train."""
    data = Points(Path(), True)
    return fedws.Worker(node, "points", data, labels=HELD.get(node), tasks={"fedavg.fit": task})


HELD: Mapping[str, Sequence[int]] = {"alice": (0, 1, 2, 3), "bob": (4, 5, 6), "charlie": (7, 8, 9)}


def evaluating(task: Task | None = None) -> fedws.Worker:
    """Return the evaluator; ``task`` replaces its own."""
    node = create_evaluator("testing", "points", Points(Path(), False))
    if task is not None:
        node._tasks = {"evaluate": task}
    return node


def address(scheme: str, node: str) -> str:
    """Return an address for a node: a free port, or its name."""
    return f"memory://{node}" if scheme == "memory" else "ws://localhost:0"


@contextlib.asynccontextmanager
async def federation(
    scheme: str = "ws",
    *,
    tasks: Mapping[str, Task] | None = None,
    score: Task | None = None,
    limits: Limits | None = None,
    nodes: Sequence[str] = (*WORKERS, "testing"),
) -> AsyncIterator[dict[str, Any]]:
    """Serve the nodes, and return the settings of a short run; ``tasks`` has the workers' tasks by id."""
    urls = {}
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            served = evaluating(score) if node == "testing" else worker(node, (tasks or {}).get(node, fit))
            urls[node] = await stack.enter_async_context(fedws.serve(served, address(scheme, node), limits))
        yield settings(urls)


def settings(urls: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Return the settings of a run of two rounds over these nodes, both evaluated.

    No evaluation is skipped, because at most eight models wait.
    """
    found: dict[str, Any] = {
        "workers": {node: url for node, url in urls.items() if node != "testing"},
        "evaluator": {node: url for node, url in urls.items() if node == "testing"},
        "dataset": "points",
        "rounds": 2,
        "evaluate_every": 1,
        "batch_size": 8,
        "max_local_batches": 5,
    }
    return {**found, **more}


def changed(report: TaskResult, **fields: Any) -> TaskResult:
    """Return the result with other values."""
    return replace(report, **fields)


class Proxy:
    """A proxy between a node and its caller that passes bytes on until the test freezes it."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._flows = asyncio.Event()
        self._flows.set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"ws://localhost:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for writer in self._writers:  # also if bytes are unsent, or a pipe has not started
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # let aborted transports close their sockets

    def freeze(self) -> None:
        """Pass nothing on from now on, without closing a connection."""
        self._flows.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(far_writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._pipes.add(asyncio.create_task(self._pipe(source, target)))

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(2**16):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()
