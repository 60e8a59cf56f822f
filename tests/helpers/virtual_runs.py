"""Whole runs in virtual time: nodes whose rounds have given durations, and a run that a test observes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import fedws
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.server import NodeServer
from fedws.node.worker import Worker
from fedws.protocol.messages import Message, TaskResult
from tests.helpers.federation import HELD, WORKERS, Points, evaluating, settings
from tests.helpers.virtual_time import now

DATA = Points(Path(), True)
ROUND = 10.0
"""Virtual seconds of a round, which are those of a worker's training."""


@contextlib.asynccontextmanager
async def there(
    *nodes: str, seconds: Callable[[TaskResult], float] = lambda report: ROUND, scoring: float = 0.0
) -> AsyncIterator[None]:
    """Serve these nodes, whose results take so long."""
    async with contextlib.AsyncExitStack() as stack:
        for name in nodes:
            node = evaluating() if name == "testing" else Worker(name, "points", DATA, labels=HELD[name])
            service = stack.enter_context(contextlib.closing(NodeServer(node, Limits())))
            takes = (lambda report: scoring) if name == "testing" else seconds

            async def handle(channel: Channel, service: NodeServer = service, takes: Any = takes) -> None:
                send = channel.send

                async def taking(message: Message) -> None:
                    if isinstance(message, TaskResult):
                        await asyncio.sleep(takes(message))
                    await send(message)

                channel.send = taking  # type: ignore[method-assign]
                await service.handle(channel)

            url = f"memory://{name}"
            await stack.enter_async_context(find_transport(url).serve(url, handle, Limits()))
        yield


class Run:
    """A run in progress, with its records and their times."""

    def __init__(self, folder: Path, **more: Any) -> None:
        nodes = more.pop("nodes", WORKERS)
        self.records: list[Mapping[str, Any]] = []
        self.times: list[float] = []
        self.directory = folder / "run"
        self._news = asyncio.Condition()
        self._told: set[asyncio.Task[None]] = set()
        found = settings({node: f"memory://{node}" for node in nodes}, **{"rounds": 6, **more})
        self.task = asyncio.create_task(fedws.run(run_dir=self.directory, observers=[self._observe], **found))

    async def round(self, number: int) -> Mapping[str, Any]:
        """Wait for the record of a round."""
        return await self._find(lambda record: record["kind"] == "round" and record["round"] == number)

    async def score(self, number: int) -> Mapping[str, Any]:
        """Wait until the federated model of a round is evaluated."""
        return await self._find(lambda record: (record.get("model"), record["round"]) == ("federated", number))

    async def _find(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        found: list[Mapping[str, Any]] = []

        def there() -> bool:
            found[:] = [record for record in self.records if wanted(record)]
            return bool(found)

        async with self._news:
            await self._news.wait_for(there)
        return found[0]

    @property
    def log(self) -> list[str]:
        """Lines of its log, without their times."""
        return [line.partition(" | ")[2] for line in (self.directory / "run.log").read_text().splitlines()]

    def rounds(self, *keys: str) -> list[Any]:
        """Contents of the records of rounds."""
        return [[record[key] for key in keys] for record in self.records if record["kind"] == "round"]

    @property
    def scored(self) -> list[tuple[int, str]]:
        return [(record["round"], record["model"]) for record in self.records if record["kind"] == "evaluation"]

    def _observe(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)
        self.times.append(now())

        async def tell() -> None:
            async with self._news:
                self._news.notify_all()

        task = asyncio.create_task(tell())
        self._told.add(task)
        task.add_done_callback(self._told.discard)


def in_order(lines: Sequence[str], *wanted: str) -> None:
    """Check that these lines exist in this order."""
    places = [lines.index(text) for text in wanted]
    assert places == sorted(places), [lines[place] for place in places]


def assert_same(result: fedws.RunResult, other: fedws.RunResult) -> None:
    assert result.model.keys() == other.model.keys()
    assert all(torch.equal(result.model[name], value) for name, value in other.model.items())


ALL = (*WORKERS, "testing")
