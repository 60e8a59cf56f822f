"""Nodes that dial out: their attempts to join, the pauses between them, and the ends of their links."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core.errors import UsageError
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.dial_out import join_run
from fedws.node.server import NodeServer
from fedws.protocol.messages import Hello, Join, Refusal, TaskFailure, TaskRequest
from fedws.security.credentials import INSECURE
from tests.helpers.dial_out_nodes import join, meeting, node, outside
from tests.helpers.keyed_runs import KEY
from tests.helpers.virtual_time import now, virtual


@contextlib.asynccontextmanager
async def scripted(*answers: Any) -> AsyncIterator[list[tuple[float, Any]]]:
    """A coordinator that says these things, one per link, and the last one ever again; gives who joined, and when."""
    came: list[tuple[float, Any]] = []
    script = list(answers)

    async def arrive(channel: Channel) -> None:
        came.append((now(), await channel.receive()))
        answer = script.pop(0) if len(script) > 1 else script[0]
        if callable(answer):
            await answer(channel)
        elif answer is not None:
            await channel.send(answer)
            came.append((now(), await channel.receive()))

    async with find_transport("memory://meeting").serve("memory://meeting", arrive, Limits()):
        yield came


@virtual
async def test_a_node_joins_with_its_name_and_one_instance_for_all_its_links() -> None:
    async with scripted(Refusal(kind="node", reason="no")) as came, outside("memory://meeting", "alice", "bob"):
        await asyncio.sleep(60)
    joins = [message for _, message in came if isinstance(message, Join)]
    instances = {name: {one.instance_id for one in joins if one.node == name} for name in ("alice", "bob")}
    assert len(joins) > 20 and all(len(found) == 1 for found in instances.values())
    assert instances["alice"] != instances["bob"]
    async with scripted(Refusal(kind="node", reason="no")) as came, outside("memory://meeting", "alice"):
        await asyncio.sleep(1)
    assert came[0][1].instance_id not in instances["alice"], "another start is another instance"


async def hangs_up(channel: Channel) -> None:
    await channel.send(Hello(run="cafe", node="alice", protocol=1))
    await channel.receive()
    await channel.close("the coordinator closed")


@pytest.mark.parametrize(
    "answer",
    [
        Refusal(kind="busy", reason="alice is here already\x1b; ids must differ"),
        Hello(run="cafe", node="bob", protocol=1),
        Hello(run="cafe", node="alice", protocol=2),
        TaskRequest(request_id="1", worker="alice", round=1, task="t"),
        join(),
        hangs_up,
    ],
    ids=["refused", "called for another", "another protocol", "an order", "a join", "called and left"],
)
@virtual
async def test_a_node_that_is_not_wanted_tries_again_after_ever_longer_pauses(answer: Any) -> None:
    """It is there for the run that may listen later, and asks no more than once in five seconds."""
    async with scripted(answer) as came, outside("memory://meeting", "alice"):
        await asyncio.sleep(600)
    times = [time for time, message in came if isinstance(message, Join)]
    assert times[0] == 0 and 120 <= len(times) < 260
    assert max(after - before for before, after in itertools.pairwise(times)) <= 5 + 1e-9


@virtual
async def test_a_node_that_is_not_called_lets_go_and_tries_again() -> None:
    async def mute(channel: Channel) -> None:
        await channel.wait_closed()

    async with scripted(mute) as came, outside("memory://meeting", "alice"):
        await asyncio.sleep(61)
    assert [message.node for _, message in came] == ["alice", "alice"] and 60 < came[1][0] < 60.2


@virtual
async def test_a_node_that_waits_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "fedws"):
        async with outside("memory://meeting", "alice"):
            await asyncio.sleep(60)
            async with meeting("memory://meeting", INSECURE, 60, "bob"):
                await asyncio.sleep(60)
            await asyncio.sleep(60)
    nobody = "alice: waiting to join at memory://meeting (no node serves memory://meeting)"
    why = "this run does not expect alice; check --id here and --expect-workers there"
    refused = f"alice: waiting to join at memory://meeting ({why})"
    assert [line for line in caplog.messages if line.startswith("alice")] == [nobody, refused, nobody]


@virtual
async def test_a_node_that_has_worked_joins_the_next_run_at_once() -> None:
    """Also one that was refused for long before."""

    async def works(channel: Channel) -> None:
        await channel.send(Hello(run="cafe", node="alice", protocol=1))
        await channel.receive()
        await channel.send(TaskRequest(request_id="1", worker="alice", round=1, task="t"))
        assert isinstance(await channel.receive(), TaskFailure)
        await channel.close()

    script = [Refusal(kind="busy", reason="no")] * 10
    async with scripted(*script, works) as came, outside("memory://meeting", "alice"):
        await asyncio.sleep(60)
    pauses = [
        after - before for before, after in itertools.pairwise(time for time, one in came if isinstance(one, Join))
    ]
    assert max(pauses[:10]) > 2 and max(pauses[10:]) <= 0.1 and len(pauses) > 100


@virtual
async def test_a_node_that_ends_takes_leave() -> None:
    """Of who has called it, and of who has not yet."""
    async with meeting() as (place, url):
        async with outside(url, "alice", "bob"):
            channels = {name: await place.next_channel(name) for name in ("alice", "bob")}
            await channels["bob"].send(Hello(run="cafe", node="bob", protocol=1))
            await channels["bob"].receive()
        for channel in channels.values():
            with pytest.raises(fedws.FedwsError, match=r"^the node ends$"):
                await channel.receive()


@virtual
async def test_an_error_on_a_link_costs_the_link_and_not_the_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handle, errors = NodeServer.handle, [ZeroDivisionError("a bug")]

    async def breaks(self: NodeServer, *given: Any) -> None:
        if errors:
            raise errors.pop()
        await handle(self, *given)

    monkeypatch.setattr(NodeServer, "handle", breaks)
    async with meeting() as (place, url), outside(url, "alice"):
        channel = await place.next_channel("alice")
        await channel.send(Hello(run="cafe", node="alice", protocol=1))
        with pytest.raises(fedws.FedwsError, match=r"^an error in the node$"):
            await channel.receive()
        channel = await place.next_channel("alice")
        await channel.send(Hello(run="cafe", node="alice", protocol=1))
        assert type(await channel.receive()).__name__ == "Welcome"
    (line,) = (message for message in caplog.messages if "link to memory://meeting failed" in message)
    text = r"alice: link to memory://meeting failed: ZeroDivisionError: a bug \(.*test_dial_out\.py, line \d+\)"
    assert re.fullmatch(text, line)


async def test_a_name_that_no_network_can_have_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It is found only where it is looked up."""
    caplog.set_level("INFO", "fedws")
    async with outside(f"ws://{'x' * 64}.example:1", "alice", security=KEY):
        while not caplog.messages:
            await asyncio.sleep(0.01)
    assert caplog.messages[0].startswith("alice: waiting to join at ws://xxx")


async def test_an_address_to_listen_at_without_a_port_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'ws://127\.0\.0\.1' has no port to listen on; add one, such as :9000"):
        await fedws.run(listen="ws://127.0.0.1", expect_workers=["alice"], dataset="points", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("url", "text"),
    [("x://h:1", "unknown scheme 'x'; choose from memory, "), ("ws://", "is not a valid address; use the form")],
)
async def test_an_address_that_is_none_is_said_at_once(url: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        async with join_run(node("alice"), url, credentials=KEY):
            pass
