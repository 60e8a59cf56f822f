"""Two links to one node: a run takes over its own older link, and another run is refused."""

import asyncio
import re
import threading

import pytest

import fedws
from fedws.core.errors import LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.body_transfer import BodyTransfers
from fedws.network.lookup import find_transport
from fedws.node.run_lease import MAX_LINKS_PER_RUN, TAKEN_OVER_REASON
from fedws.node.server import NodeServer
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Hello, Message, Refusal, TaskRequest, TaskResult, Welcome
from tests.helpers.federation import PATIENCE, Gate, happens, worker
from tests.helpers.node_calls import SCHEMES, begin, call, echo, order, serving
from tests.helpers.waiting import soon


async def why_lost(channel: Channel) -> str:
    """Wait until the node closes a link; gives the reason."""
    with pytest.raises(LinkLost) as lost:
        await soon(channel.receive())
    return str(lost.value)


@SCHEMES
async def test_the_same_run_takes_over(scheme: str) -> None:
    """Its older link is closed, the work for it is stopped, and the newer link's orders are done."""
    gate = Gate(task=echo)
    async with serving(scheme, gate) as url:
        older, welcome = await call(url, "run")
        assert isinstance(welcome, Welcome)
        await older.send(order())
        await happens(gate.entered)
        newer, welcome = await call(url, "run")
        assert isinstance(welcome, Welcome) and gate.stopped.is_set()
        assert await why_lost(older) == TAKEN_OVER_REASON
        gate.opened.set()
        await newer.send(order(request_id="again"))
        report = await soon(newer.receive())
        assert isinstance(report, TaskResult) and report.request_id == "again"
        await newer.close()


@SCHEMES
async def test_another_run_is_told_which_has_the_node_and_since_when(scheme: str) -> None:
    async with serving(scheme, echo) as url:
        holder, _ = await call(url, "77d1e0aa\n")
        for run in ("other", "77d1e0aa", ""):
            refused, answer = await call(url, run)
            assert isinstance(answer, Refusal) and answer.kind == "busy"
            reason = r"alice is busy with run 77d1e0aa since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
            assert re.fullmatch(reason, answer.reason)
            await refused.close()
        await holder.send(order())
        assert isinstance(await soon(holder.receive()), TaskResult), "the first run continues"
        await holder.close()
        await (await begin(url, "other")).close()


async def test_a_run_without_an_id_takes_over_nothing() -> None:
    async with serving("memory", echo) as url:
        holder, _ = await call(url, "")
        _, answer = await call(url, "")
        assert isinstance(answer, Refusal) and answer.kind == "busy"
        await holder.send(order())
        assert isinstance(await soon(holder.receive()), TaskResult)


@SCHEMES
async def test_of_several_at_once_the_newest_is_served(scheme: str) -> None:
    """While the task has not looked up yet; then the node is free for another run."""
    looked_at = threading.Event()

    def stubborn(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        if order.request_id == "first":
            looked_at.set()
            assert workspace.stop.wait(PATIENCE) and looks_up.wait(PATIENCE)
        return echo(order, workspace)

    looks_up = threading.Event()
    async with serving(scheme, stubborn) as url:
        older, _ = await call(url, "run")
        await older.send(order(request_id="first"))
        await happens(looked_at)
        calls = []
        for _ in range(5):
            channel = await soon(find_transport(url).connect(url, Limits()))
            calls.append(channel)
            await channel.send(Hello(run="run", node="alice", protocol=1))
        assert await why_lost(older) == TAKEN_OVER_REASON, "before the work for it has ended"
        answers = [asyncio.create_task(soon(channel.receive())) for channel in calls]
        looks_up.set()
        found = await asyncio.gather(*answers, return_exceptions=True)
        (winner,) = (channel for channel, answer in zip(calls, found, strict=True) if isinstance(answer, Welcome))
        assert {str(answer) for answer in found if not isinstance(answer, Welcome)} == {TAKEN_OVER_REASON}
        if scheme == "memory":  # where they come in this order
            assert winner is calls[-1]
        await winner.send(order())
        assert isinstance(await soon(winner.receive()), TaskResult)
        await winner.close()
        await (await begin(url, "other")).close()


async def test_another_coordinator_that_knows_the_run_does_not_take_it_over() -> None:
    """Its workers know it."""
    async with serving("memory", echo) as url:
        link = await begin(url, "run")
        other = await soon(find_transport(url).connect(url, Limits()))
        await other.send(Hello(run="run", node="alice", protocol=1, coordinator="bob"))
        answer = await soon(other.receive())
        assert isinstance(answer, Refusal) and answer.kind == "busy"
        await link.send(order())
        assert isinstance(await soon(link.receive()), TaskResult)


async def test_only_so_many_links_of_a_run_wait_for_their_turn() -> None:
    deaf, entered = threading.Event(), threading.Event()

    def task(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        entered.set()
        assert deaf.wait(PATIENCE)
        return echo(order, workspace)

    async with serving("memory", task) as url:
        first, _ = await call(url, "run")
        await first.send(order())
        await happens(entered)
        waiting = []
        for _ in range(MAX_LINKS_PER_RUN - 1):
            waiting.append(await soon(find_transport(url).connect(url, Limits())))
            await waiting[-1].send(Hello(run="run", node="alice", protocol=1))
        _, answer = await call(url, "run")
        assert isinstance(answer, Refusal) and answer.kind == "busy"
        deaf.set()
        assert isinstance(await soon(waiting[-1].receive()), Welcome)


async def test_a_task_that_does_not_look_up_keeps_the_node_busy() -> None:
    """A coordinator that connects meanwhile is refused, and may connect again."""
    deaf, entered = threading.Event(), threading.Event()

    def task(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        entered.set()
        assert deaf.wait(PATIENCE)
        return echo(order, workspace)

    async with serving("memory", task, Limits(peer_timeout=0.6)) as url:
        older, _ = await call(url, "run")
        await older.send(order())
        await happens(entered)
        for run in ("run", "other", "run"):
            _, answer = await call(url, run)
            assert isinstance(answer, Refusal) and answer.kind == "busy"
            assert answer.reason.startswith("alice is busy with run run since ")
        assert await why_lost(older) == TAKEN_OVER_REASON
        deaf.set()
        await begin(url, "run")
        await begin(url, "run")


class Stuck:
    """A link whose other end is stopped: it says hello, and does not let itself be closed before the test does."""

    bytes_sent = bytes_received = 0
    is_receiving = False
    peer = address = encryption = ""

    def __init__(self, run: str) -> None:
        self.transfers = BodyTransfers()
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.messages.put_nowait(Hello(run=run, node="alice", protocol=1))
        self.answers: asyncio.Queue[Message] = asyncio.Queue()
        self.closing, self.let_go = asyncio.Event(), asyncio.Event()

    def mark_authenticated(self) -> None:
        """As of a channel."""

    def set_session_key(self, session_key: bytes) -> None:
        """As of a channel."""

    async def send(self, message: Message) -> None:
        """As of a channel."""
        self.answers.put_nowait(message)

    async def receive(self) -> Message:
        """As of a channel."""
        return await self.messages.get()

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """As of a channel."""
        self.closing.set()
        await self.let_go.wait()

    async def wait_closed(self) -> None:
        """As of a channel."""
        await self.let_go.wait()


async def test_a_link_that_takes_long_to_close_delays_nobody() -> None:
    service = NodeServer(worker("alice", echo), Limits())
    links = [Stuck("run"), Stuck("run")]
    serving = []
    for link in links:
        serving.append(asyncio.create_task(service.handle(link)))
        assert isinstance(await soon(link.answers.get()), Welcome)
    await soon(links[0].closing.wait())
    assert not links[0].let_go.is_set()
    for link in links:
        link.let_go.set()
    serving[1].cancel()
    await soon(asyncio.gather(*serving, return_exceptions=True))
    service.close()


@SCHEMES
async def test_who_breaks_the_protocol_is_told_before_the_work_has_ended(scheme: str) -> None:
    deaf, entered = threading.Event(), threading.Event()

    def task(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        entered.set()
        assert deaf.wait(PATIENCE)
        return echo(order, workspace)

    async with serving(scheme, task) as url:
        channel, _ = await call(url, "run")
        await channel.send(order())
        await happens(entered)
        await channel.send(Hello(run="run", node="alice", protocol=1))
        assert await why_lost(channel) == "unexpected message 'hello', expected 'task_request'"
        deaf.set()
