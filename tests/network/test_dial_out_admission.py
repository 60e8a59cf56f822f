"""Admission to a run that listens: network keys, names of nodes, strangers, and connections that never join."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core.errors import LinkLost, RunFailed, UnexpectedNode
from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.network.base import Limits
from fedws.network.lookup import find_transport
from fedws.node.dial_out import join_run
from fedws.protocol.messages import Challenge, Hello, Refusal, TaskResult
from fedws.security.credentials import INSECURE, Credentials
from tests.helpers.dial_out_nodes import come, expecting, free_port, join, listening, node, outside
from tests.helpers.federation import PATIENCE, Gate, happens, worker
from tests.helpers.keyed_runs import KEY, OTHER
from tests.helpers.run_results import answered


async def test_keys_are_proved_on_links_that_were_joined(tmp_path: Path) -> None:
    async with (
        listening(tmp_path / "run", credentials=KEY, **expecting("ws://localhost:0", "alice", "testing")) as (
            run,
            url,
        ),
        outside(url, "alice", "testing", security=KEY),
    ):
        assert answered(await run) == [1, 1]
    assert "insecure" not in (tmp_path / "run" / "run.log").read_text()


WRONG = {
    "another key": (OTHER, KEY, "alice has a different network key; copy the key"),
    "a run without one": (KEY, INSECURE, "alice requires the network key (--key-file or FEDWS_KEY), but"),
    "a node without one": (INSECURE, KEY, "it does not authenticate (--insecure); set its --key-file or"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_sides_that_do_not_go_together_say_so_and_the_run_waits_for_the_right_one(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A join is not authenticated, so the run does not end, as it would if the coordinator had connected to alice."""
    theirs, ours, text = WRONG[case]
    more = expecting("ws://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    async with listening(tmp_path / "run", credentials=ours, **more) as (run, url):
        async with outside(url, "alice", security=theirs):
            while not any(text in line for line in caplog.messages):
                await asyncio.sleep(0.01)
            assert not run.done()
        async with asyncio.timeout(PATIENCE), outside(url, "alice", security=ours):
            assert answered(await run) == [1, 1]
    assert any(line.startswith("alice: rejected a node that joined under this name: ") for line in caplog.messages)


async def test_what_was_wrong_with_who_joined_is_said_when_the_run_has_waited_in_vain(tmp_path: Path) -> None:
    url = f"ws://localhost:{free_port()}"
    async with outside(url, "alice", security=OTHER):
        with pytest.raises(RunFailed) as error:
            more = expecting(url, "alice", evaluator={}, peer_timeout=1.0)
            await fedws.run(run_dir=tmp_path / "never", credentials=KEY, **more)
    assert f"not connected within 1 s: alice at {url} (alice has a different network key; " in str(error.value)


@pytest.mark.parametrize("security", [KEY, INSECURE], ids=["proved", "unproved"])
async def test_other_data_end_the_run_only_where_the_node_has_proved_itself(
    security: Credentials, tmp_path: Path
) -> None:
    url = f"ws://localhost:{free_port()}"
    more = expecting(url, "alice", evaluator={}, dataset="digits", peer_timeout=1.0)
    async with outside(url, "alice", security=security):
        with pytest.raises(RunFailed) as error:
            await fedws.run(run_dir=tmp_path / "never", credentials=security, **more)
    text = "it holds points, not digits; see --dataset"
    if security is KEY:
        assert isinstance(error.value, UnexpectedNode) and str(error.value) == f"alice at {url}: {text}"
    else:
        assert str(error.value) == f"not connected within 1 s: alice at {url} ({text})"
    assert not (tmp_path / "never").exists()


async def test_a_second_node_of_a_name_is_told_and_joins_when_the_first_has_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fedws")
    gate = Gate(held=(1, 2))
    more = expecting("ws://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    async with listening(tmp_path / "run", **more) as (run, url):
        line = f"alice: waiting to join at {url} (alice seems to be connected already; node ids must differ)"
        async with contextlib.AsyncExitStack() as second:
            async with join_run(worker(task=gate), url):
                await happens(gate.entered)
                await second.enter_async_context(outside(url, "alice"))
                while line not in caplog.messages:
                    await asyncio.sleep(0.01)
                assert not gate.stopped.is_set()
            async with asyncio.timeout(PATIENCE):
                assert answered(await run) == [1, 1]
    assert caplog.messages.count(line) == 1, "logged once"


async def test_strangers_neither_end_a_run_nor_keep_its_node_out(tmp_path: Path) -> None:
    """They claim to be alice, before her and while she works; some then send messages that are not allowed."""
    gate = Gate(held=(1,))
    more = expecting("ws://localhost:0", "alice", evaluator={}, wait_for_workers="forever")

    async def stranger(url: str, instance: str) -> list[Any]:
        channel = await come(join(instance), url)
        found: list[Any] = [await channel.receive()]
        if isinstance(found[0], Hello):
            await channel.send(TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=1))
        return [channel, *found]

    async with listening(tmp_path / "run", credentials=KEY, **more) as (run, url):
        before = [await come(join(f"{number:064x}"), url) for number in range(20)]
        for channel in before[::2]:
            assert isinstance(await channel.receive(), Hello)
            await channel.send(Refusal(kind="node", reason="no"))
        async with join_run(worker(task=gate), url, credentials=KEY):
            await happens(gate.entered)
            for number in range(20):
                _, first = await stranger(url, f"{number:064x}")
                assert first == Refusal(
                    kind="busy",
                    reason="alice seems to be connected already; node ids must differ",
                )
            assert not gate.stopped.is_set() and not run.done()
            gate.opened.set()
            assert answered(await run) == [1, 1]
    assert "has left" not in (tmp_path / "run" / "run.log").read_text()


async def test_a_stranger_cannot_pass_off_the_proof_of_another_node(tmp_path: Path) -> None:
    """He joins as alice, has bob, who is served, answer the coordinator's challenge, and welcomes the run himself."""
    more = expecting("ws://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    async with listening(tmp_path / "run", credentials=KEY, **more) as (run, url):
        async with fedws.serve(node("bob"), "ws://localhost:0", credentials=KEY) as served:
            near, far = await come(join(), url), await find_transport(served).connect(served, Limits())
            await far.send(await near.receive())
            challenge = await far.receive()
            assert isinstance(challenge, Challenge) and challenge.node == "bob"
            await near.send(challenge)
            with pytest.raises(LinkLost, match=r"^the coordinator ended the handshake$"):
                await near.receive()
            await far.close()
        assert not run.done()
        async with outside(url, "alice", security=KEY):
            assert answered(await run) == [1, 1]


async def test_500_who_never_join_are_dropped_and_a_run_goes_well(tmp_path: Path) -> None:
    """The number of pending connections is limited, and their timeout of 100 s delays no other node."""
    more = expecting("ws://localhost:0", "alice", evaluator={}, peer_timeout=600)
    async with contextlib.AsyncExitStack() as stack, listening(tmp_path / "run", **more) as (run, url):
        port = int(url.rpartition(":")[2])
        gone = []
        for number in range(500):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            gone.append(asyncio.create_task(reader.read()))
            if number % 50 == 49:
                while sum(task.done() for task in gone) < number + 1 - MAX_PENDING_CONNECTIONS:
                    await asyncio.sleep(0.001)
        async with asyncio.timeout(PATIENCE), outside(url, "alice"):
            assert answered(await run) == [1, 1]
        assert sum(task.done() for task in gone) >= 500 - MAX_PENDING_CONNECTIONS
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
