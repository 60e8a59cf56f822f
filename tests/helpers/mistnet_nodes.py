"""Nodes of a run of MistNet over sockets: observed workers, the evaluator, and the server trainer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import torch

import fedws
from fedws.algorithms import mistnet
from fedws.coordinator import server_trainer_main
from fedws.core.plan import Plan
from fedws.network.base import Limits
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.split_learning.feature_store import FEATURES_KEY, FeatureStore
from tests.helpers.federation import PATIENCE, Points, evaluating, settings
from tests.helpers.support import REPOSITORY, sent_over

RECORDS, CHUNKS = 120, 6
"""Number of records and of chunks of one worker."""
PLUGIN = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
import fedws
from fedws.protocol.encoder import encode_message
from tests.helpers.federation import Points, PointsNet
fedws.register("dataset", "points")(Points)
fedws.register("model", "points_net")(PointsNet)
"""
"""Plugin of the server trainer, which is a process of its own."""


class Thread:
    """A replacement of ``ServerTrainer`` in a thread."""

    def __init__(self, plan: Plan, store: Path) -> None:
        self._store = FeatureStore(store)

    async def __aenter__(self) -> "Thread":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing, because there is no process to end."""

    async def execute(self, order: TaskRequest) -> TaskResult | TaskFailure:
        answer = await asyncio.to_thread(
            server_trainer_main._execute, sent_over(order), self._store, mistnet.MistNet.server_tasks
        )
        return sent_over(answer)  # type: ignore[no-any-return]


class Node:
    """The tasks of a worker, observed: they record what was sent, and can stop until the test lets them continue."""

    def __init__(self, stops_at: int = 10**9) -> None:
        self.sent: list[tuple[int, torch.Tensor]] = []
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stops_at = stops_at

    @property
    def tasks(self) -> Mapping[str, Any]:
        return {
            "mistnet.extract": mistnet.extract,
            "mistnet.upload": self.upload,
            "mistnet.acknowledge": mistnet.acknowledge,
        }

    @fedws.task_traits("features")
    def upload(self, order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        if len(self.sent) == self._stops_at:
            self._loop.call_soon_threadsafe(self.reached.set)
            workspace.stop.wait(PATIENCE)  # until its link is lost
        report = mistnet.upload(order, workspace)
        self.sent.append((order.settings["first"], report.tensors[FEATURES_KEY]))
        return report


@contextlib.asynccontextmanager
async def served(name: str, node: Node, folder: Path, url: str = "ws://localhost:0") -> AsyncIterator[str]:
    """Serve a worker that keeps its uploads in ``folder``."""
    data = Points(Path(), True)
    worker = fedws.Worker(name, "points", data, labels=[], tasks=node.tasks, state_dir=folder / name)
    async with fedws.serve(worker, url, Limits(peer_timeout=6)) as address:
        yield address


@contextlib.asynccontextmanager
async def federation(folder: Path, nodes: Mapping[str, Node], **more: Any) -> AsyncIterator[dict[str, Any]]:
    """Serve all nodes and an evaluator; return the settings of a run."""
    async with contextlib.AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(served(name, node, folder)) for name, node in nodes.items()}
        urls["testing"] = await stack.enter_async_context(fedws.serve(evaluating(), "ws://localhost:0"))
        yield gathering(folder, urls, **more)


def gathering(folder: Path, urls: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Return the settings of a run."""
    options, plugin = "split_at=relu,public_dataset=points,pretrain_epochs=2,epsilon=8", folder / "points.py"
    plugin.write_text(PLUGIN)
    model = {"algorithm": f"mistnet:{options}", "model": "points_net", "plugins": str(plugin)}
    return settings(urls, **model, peer_timeout=6.0, **more)
