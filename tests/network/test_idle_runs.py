"""A run that has a node and sends it nothing gives way to another one that calls; one with requests open does not."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import torch

import fedws
from fedws.core.errors import LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.transports.memory import MemoryTransport
from fedws.network.websocket.incoming_connection import IncomingConnection
from fedws.node.server import serve
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Hello, Message, Refusal, TaskRequest, TaskResult, Welcome
from fedws.security.credentials import INSECURE
from tests.abuse.hostile import PATIENCE, frame, hostile
from tests.helpers.federation import worker
from tests.helpers.manual_coordinator import HELLO, answer, data, rough
from tests.helpers.virtual_time import virtual

LIMITS = Limits(peer_timeout=60.0)
LONG = 600.0
"""Seconds, ten times ``peer_timeout``."""


class Task:
    """Answers at once, but for orders of round 2, which wait until the test opens them."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        if order.round == 2:
            assert self.opened.wait(60)
        return workspace.build_result(order, {})


@contextlib.asynccontextmanager
async def node(task: Task | None = None) -> AsyncIterator[str]:
    async with serve(worker(task=task or Task()), "memory://alice", LIMITS, INSECURE) as url:
        yield url


async def call(run: str, coordinator: str = "lab") -> tuple[Channel, Message | None]:
    """Dial alice as a run; the answer is None if the link was closed instead."""
    channel = await MemoryTransport().connect("memory://alice", LIMITS)
    await channel.send(Hello(run=run, node="alice", protocol=1, coordinator=coordinator))
    with contextlib.suppress(LinkLost):
        return channel, await channel.receive()
    return channel, None


async def has_it(run: str) -> bool:
    """Whether a run that calls gets the node; then it leaves it again."""
    channel, answer = await call(run)
    await channel.close()
    await asyncio.sleep(0)
    return isinstance(answer, Welcome)


async def holder(run: str = "holder") -> Channel:
    channel, answer = await call(run)
    assert isinstance(answer, Welcome)
    return channel


def order(round_number: int = 1, size: int = 1) -> TaskRequest:
    tensors = {"x": torch.zeros(size, dtype=torch.uint8)}
    return TaskRequest(
        request_id=f"{round_number}/alice", worker="alice", round=round_number, task="fedavg.fit", tensors=tensors
    )


@virtual
async def test_an_idle_holder_gives_way_when_another_run_calls() -> None:
    """Its coordinator reads a code by which it may dial again, and no take-over, which would end its run."""
    async with node():
        idle = await holder()
        await asyncio.sleep(LONG - 1)
        assert not await has_it("other")
        await asyncio.sleep(1)
        other, answer = await call("other")
        assert isinstance(answer, Welcome)
        with pytest.raises(LinkLost) as lost:
            await idle.receive()
        assert str(lost.value) == "idle for 600 s, and another run connected" and type(lost.value) is LinkLost
        await other.send(order())
        assert isinstance(await other.receive(), TaskResult)
        again, busy = await call("holder")
        assert isinstance(busy, Refusal) and busy.kind == "busy" and "busy with run other since" in busy.reason
        await again.close()


@virtual
async def test_a_holder_alone_keeps_the_node() -> None:
    async with node():
        idle = await holder()
        await asyncio.sleep(100 * LONG)
        await idle.send(order())
        assert isinstance(await idle.receive(), TaskResult)


@virtual
async def test_each_request_counts_from_its_answer_on() -> None:
    async with node():
        holding = await holder()
        for round_number in (1, 3, 4):
            await asyncio.sleep(LONG - 1)
            await holding.send(order(round_number))
            assert isinstance(await holding.receive(), TaskResult)
            assert not await has_it("other")
        await asyncio.sleep(LONG)
        assert await has_it("other")


@virtual
async def test_two_runs_do_not_steal_from_each_other() -> None:
    """The run that gets the node keeps it as long as it sends requests, and else for as long as the other had it."""
    async with node():
        first = await holder("first")
        for turn in range(3):
            await asyncio.sleep(LONG)
            second, answer = await call("second" if turn % 2 == 0 else "first")
            assert isinstance(answer, Welcome)
            for _ in range(20):
                assert not await has_it("first" if turn % 2 == 0 else "second")
                await asyncio.sleep(LONG / 40)
            first = second
        assert first is second


async def test_a_holder_whose_request_is_open_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it trains: here every time is long."""
    monkeypatch.setattr("fedws.node.run_lease.IDLE_PEER_TIMEOUTS", 1e-12)
    task = Task()
    async with node(task):
        training = await holder()
        await training.send(order(2))
        for _ in range(3):
            assert not await has_it("other")
        task.opened.set()
        assert isinstance(await training.receive(), TaskResult)
        assert await has_it("other")


@virtual
async def test_a_holder_whose_request_is_arriving_stays() -> None:
    """Also between two pieces; what arrives too slowly ends its link by itself."""
    async with node():
        sending = await holder()
        pieces = [bytes(piece) for piece in encode_message(order(size=3 * 2**20)).fragments()]
        assert len(pieces) > 3
        for piece in pieces:
            sending.deliver(piece)  # type: ignore[attr-defined]
            await asyncio.sleep(LONG)
            assert not await has_it("other")
        sending.deliver(b"")  # type: ignore[attr-defined]
        assert isinstance(await sending.receive(), TaskResult)


@virtual
async def test_a_second_coordinator_of_the_same_name_waits_no_less() -> None:
    """Runs without an id, too: none of them is another's."""
    async with node():
        await holder("")
        await asyncio.sleep(LONG - 1)
        assert not await has_it("")
        await asyncio.sleep(1)
        assert await has_it("")


@virtual
async def test_a_newer_link_of_an_idle_run_gives_way_too() -> None:
    async with node():
        await holder()
        newer = await holder()
        await asyncio.sleep(LONG)
        assert await has_it("other")
        with pytest.raises(LinkLost, match=r"^idle for 600 s, and another run connected$"):
            await newer.receive()


async def test_a_holder_stays_while_a_frame_of_its_request_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame has up to 1 MiB, which a slow link may take long for."""
    monkeypatch.setattr("fedws.node.run_lease.IDLE_PEER_TIMEOUTS", 1e-12)
    came = asyncio.Event()
    received = IncomingConnection.data_received

    def receive(self: IncomingConnection, data: bytes) -> None:
        received(self, data)
        if data == half:
            came.set()

    request = frame(data(order(size=1000)))
    half = request[:500]
    async with serve(worker(task=Task()), "ws://localhost:0", LIMITS, INSECURE) as url, hostile(url) as sending:
        await sending.upgrade()
        await sending.say(frame(data(replace(HELLO, run="holder"))))
        assert isinstance(await sending.hear(), Welcome)
        monkeypatch.setattr(IncomingConnection, "data_received", receive)
        await sending.say(half)
        async with asyncio.timeout(PATIENCE):
            await came.wait()
        async with rough(url) as other:
            await other.send(data(HELLO))
            assert isinstance(await answer(other), Refusal)
        await sending.say(request[500:])
        assert isinstance(await sending.hear(), TaskResult)
        async with rough(url) as other:
            await other.send(data(HELLO))
            assert isinstance(await answer(other), Welcome)
