"""A worker that is served with one task, and links to it for runs with given ids."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import torch

import fedws
from fedws.core.errors import LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.protocol.messages import Hello, Message, TaskRequest, TaskResult, Welcome
from fedws.security.credentials import INSECURE
from fedws.training.base import Task
from tests.helpers.federation import PATIENCE, address, worker
from tests.helpers.waiting import soon

SCHEMES = pytest.mark.parametrize("scheme", ["ws", "memory"])


def order(round_number: int = 1, base: int = 0, request_id: str = "") -> TaskRequest:
    """Return a request to alice with a tensor of one number."""
    tensors = {"x": torch.tensor([float(round_number)])}
    return TaskRequest(
        request_id=request_id or f"{round_number}/alice",
        worker="alice",
        round=round_number,
        task="fedavg.fit",
        state_round=base,
        tensors=tensors,
    )


def echo(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """Return the request's tensors."""
    return workspace.build_result(order, {})


@contextlib.asynccontextmanager
async def serving(scheme: str, task: Task, limits: Limits | None = None) -> AsyncIterator[str]:
    """Serve alice with that task; return her address."""
    async with fedws.serve(worker("alice", task), address(scheme, "alice"), limits, INSECURE) as url:
        yield url


async def call(url: str, run: str) -> tuple[Channel, Message | None]:
    """Connect and send a ``hello``; return the answer, or None if the link was closed instead."""
    channel = await soon(find_transport(url).connect(url, Limits()))
    await channel.send(Hello(run=run, node="alice", protocol=1))
    with contextlib.suppress(LinkLost):
        return channel, await soon(channel.receive())
    return channel, None


async def begin(url: str, run: str) -> Channel:
    """Call until the node is free, which takes a moment; return the link."""
    async with asyncio.timeout(PATIENCE):
        while True:
            channel, answer = await call(url, run)
            if isinstance(answer, Welcome):
                return channel
            await channel.close()
