"""Nodes that dial out, and runs that listen for them: it is as if they had been dialled, whatever happens to links."""

import asyncio
import contextlib
import itertools
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.coordinator.listener import JoinListener
from fedws.core.errors import LinkLost, RunFailed, UnexpectedNode, UsageError
from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.dial_out import join_run
from fedws.node.server import NodeServer
from fedws.protocol.messages import Challenge, Hello, Join, Refusal, TaskFailure, TaskRequest, TaskResult
from fedws.security.credentials import INSECURE, Credentials
from tests.helpers.dial_out_nodes import come, expecting, free_port, join, listening, meeting, node, outside
from tests.helpers.federation import PATIENCE, WORKERS, Gate, address, federation, happens, settings, worker
from tests.helpers.keyed_runs import KEY, OTHER
from tests.helpers.virtual_runs import ALL, Run, assert_same, there
from tests.helpers.virtual_time import now, virtual

SCHEMES = pytest.mark.parametrize("scheme", ["memory", "ws"])


def place(scheme: str) -> str:
    """Where a test's run listens, known before it does."""
    return "memory://meeting" if scheme == "memory" else f"ws://localhost:{free_port()}"


def answered(result: fedws.RunResult) -> list[int]:
    return [record["num_results"] for record in result.metrics if record["kind"] == "round"]


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """The coordinator's ends of all links on which somebody joined."""
    channels: list[Channel] = []
    hold = JoinListener._hold_until_closed

    async def held(self: JoinListener, name: str, guest: Any) -> None:
        channels.append(guest.channel)
        await hold(self, name, guest)

    monkeypatch.setattr(JoinListener, "_hold_until_closed", held)
    return channels


# --------------------------------------------------------------------------- whole runs


@SCHEMES
async def test_a_mix_of_dialled_and_joining_nodes_gives_the_same_as_dialled_ones(scheme: str, tmp_path: Path) -> None:
    async with federation(scheme) as dialled:
        wanted = await fedws.run(run_dir=tmp_path / "dialled", **dialled)
    for name, inside in (("all", ()), ("mixed", ("alice", "testing")), ("other", ("bob",))):
        url = place(scheme)
        async with federation(scheme, nodes=inside) as some, outside(url, *(one for one in ALL if one not in inside)):
            more = expecting(url, *(one for one in ALL if one not in inside))
            if "testing" in inside:
                more["evaluator"] = some["evaluator"]
            # in the plan's order, in which reports are put together
            urls = {one: some["workers"].get(one, url) for one in WORKERS}
            del more["expect_workers"]
            result = await fedws.run(run_dir=tmp_path / name, **{**more, "workers": urls})
        assert_same(result, wanted)
        told = [[record for record in one.metrics if record["kind"] == "evaluation"] for one in (result, wanted)]
        assert told[0] == told[1] and len(told[0]) == 8


@SCHEMES
async def test_runs_one_after_the_other_with_the_same_nodes_the_run_first_or_the_nodes(
    scheme: str, tmp_path: Path
) -> None:
    async with (
        listening(tmp_path / "0", **expecting(address(scheme, "meeting"), *ALL)) as (run, url),
        outside(url, *ALL),
    ):
        results = [await run]
        for number in (1, 2):
            results.append(await fedws.run(run_dir=tmp_path / str(number), **expecting(url, *ALL)))
    for result in results:
        assert answered(result) == [3, 3]
        assert_same(result, results[0])


@virtual
async def test_who_comes_late_takes_part_from_then_on(tmp_path: Path) -> None:
    url = "memory://meeting"
    async with there("alice", "bob"):
        urls = {"alice": "memory://alice", "bob": "memory://bob"}
        run = Run(tmp_path, nodes=("alice", "bob"), workers={**urls, "charlie": url}, listen=url, min_results=2,
                  evaluator={})  # fmt: skip
        await run.round(1)
        async with outside(url, "charlie"):
            await run.task
    assert run.rounds("num_results")[0] == [2] and run.rounds("num_results")[-1] == [3]


@SCHEMES
async def test_a_link_that_is_lost_in_a_round_is_joined_again_and_the_round_goes_on(
    scheme: str, tmp_path: Path, joined: list[Channel]
) -> None:
    url, gate = place(scheme), Gate(held=(2,))
    async with federation(scheme) as dialled:
        wanted = await fedws.run(run_dir=tmp_path / "dialled", **dialled)
    async with join_run(worker(task=gate), url), outside(url, "bob", "charlie", "testing"):
        task = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **expecting(url, *ALL)))
        await happens(gate.entered)
        for channel in joined[: len(ALL)]:
            await channel.close("cut")
        await happens(gate.stopped)
        gate.opened.set()
        result = await task
    assert_same(result, wanted)
    assert answered(result) == [3, 3] and len(joined) >= 2 * len(ALL)
    assert "alice has left: link lost: cut" in (tmp_path / "run" / "run.log").read_text()


async def test_a_run_that_was_killed_goes_on_where_it_listens_now(tmp_path: Path) -> None:
    """Nodes at a name, as of a host, that leads to where the coordinator is."""
    first, second = (f"ws://localhost:{free_port()}" for _ in range(2))
    gate = Gate(held=(2,))
    async with federation("ws", nodes=WORKERS) as dialled:
        wanted = await fedws.run(run_dir=tmp_path / "dialled", **dialled)
    folder = tmp_path / "run"
    async with outside(first, "bob", "charlie"), join_run(worker(task=gate), first):
        task = asyncio.create_task(fedws.run(run_dir=folder, **expecting(first, *WORKERS)))
        await happens(gate.entered)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with outside(second, *WORKERS):
        assert_same(await fedws.run(resume=folder, listen=second), wanted)
    assert (
        f'listen = "{second}"' in (folder / "plan.toml").read_text() and first not in (folder / "plan.toml").read_text()
    )


async def test_a_run_that_listened_goes_on_with_nodes_that_are_dialled(tmp_path: Path) -> None:
    first, gate = f"ws://localhost:{free_port()}", Gate(held=(2,))
    folder = tmp_path / "run"
    async with join_run(worker(task=gate), first):
        task = asyncio.create_task(fedws.run(run_dir=folder, **expecting(first, "alice", evaluator={})))
        await happens(gate.entered)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with federation("ws", nodes=("alice",)) as dialled:
        assert answered(await fedws.run(resume=folder, workers=dialled["workers"])) == [1, 1]


async def test_a_port_in_use_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as error:
            await fedws.run(run_dir=tmp_path / "never", **expecting(f"ws://127.0.0.1:{port}", "alice"))
    assert str(error.value) == f"port {port} on 127.0.0.1 is in use; choose another with --listen"
    assert not (tmp_path / "never").exists()


async def test_a_node_that_never_joins_is_named(tmp_path: Path) -> None:
    url = "memory://meeting"
    async with outside(url, "alice"):
        with pytest.raises(RunFailed) as error:
            await fedws.run(
                run_dir=tmp_path / "never", peer_timeout=1.0, **expecting(url, "alice", "bob", evaluator={})
            )
    assert str(error.value) == f"waited 1 s in vain for bob at {url} (it has not joined)"
    assert not (tmp_path / "never").exists()


async def test_addresses_of_two_nodes_are_two(tmp_path: Path) -> None:
    """But for where they join."""
    for nodes in ({"a": "ws://h:1", "b": "ws://h:1"}, {"a": "ws://h:1", "b": "memory://l", "testing": "ws://h:1"}):
        with pytest.raises(UsageError, match=r"^ws://h:1 is named for two nodes$"):
            more = {"listen": "memory://l"} if "memory://l" in nodes.values() else {}
            await fedws.run(run_dir=tmp_path / "never", **settings(nodes, **more))
    assert not (tmp_path / "never").exists()


# --------------------------------------------------------------------------- who is who


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
    "another key": (OTHER, KEY, "alice has another network key; the key of one must be given to the other"),
    "a run without one": (KEY, INSECURE, "alice asks for the network key (--key-file or FEDWS_KEY), and was called"),
    "a node without one": (INSECURE, KEY, "it takes part --insecure, and proves nothing; give it --key-file or"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_sides_that_do_not_go_together_say_so_and_the_run_waits_for_the_right_one(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody could join and say that it is alice, so the run does not end, as it would had it dialled her."""
    theirs, ours, text = WRONG[case]
    more = expecting("ws://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    async with listening(tmp_path / "run", credentials=ours, **more) as (run, url):
        async with outside(url, "alice", security=theirs):
            while not any(text in line for line in caplog.messages):
                await asyncio.sleep(0.01)
            assert not run.done()
        async with asyncio.timeout(PATIENCE), outside(url, "alice", security=ours):
            assert answered(await run) == [1, 1]
    assert any(
        line.startswith("alice: a node joined under this name and was not accepted: ") for line in caplog.messages
    )


async def test_what_was_wrong_with_who_joined_is_said_when_the_run_has_waited_in_vain(tmp_path: Path) -> None:
    url = f"ws://localhost:{free_port()}"
    async with outside(url, "alice", security=OTHER):
        with pytest.raises(RunFailed) as error:
            more = expecting(url, "alice", evaluator={}, peer_timeout=1.0)
            await fedws.run(run_dir=tmp_path / "never", credentials=KEY, **more)
    assert f"waited 1 s in vain for alice at {url} (alice has another network key; " in str(error.value)


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
        assert str(error.value) == f"waited 1 s in vain for alice at {url} ({text})"
    assert not (tmp_path / "never").exists()


async def test_a_second_node_of_a_name_is_told_and_joins_when_the_first_has_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fedws")
    gate = Gate(held=(1, 2))
    more = expecting("ws://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    async with listening(tmp_path / "run", **more) as (run, url):
        told = f"alice: waits to join at {url} (alice is here already, or seems to be; ids must differ)"
        async with contextlib.AsyncExitStack() as second:
            async with join_run(worker(task=gate), url):
                await happens(gate.entered)
                await second.enter_async_context(outside(url, "alice"))
                while told not in caplog.messages:
                    await asyncio.sleep(0.01)
                assert not gate.stopped.is_set()
            async with asyncio.timeout(PATIENCE):
                assert answered(await run) == [1, 1]
    assert caplog.messages.count(told) == 1, "said once"


async def test_strangers_neither_end_a_run_nor_keep_its_node_out(tmp_path: Path) -> None:
    """They claim to be alice, before her and while she works; some go on to say what nobody may."""
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
                    reason="alice is here already, or seems to be; ids must differ",
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
            with pytest.raises(LinkLost, match=r"^the coordinator did not go on$"):
                await near.receive()
            await far.close()
        assert not run.done()
        async with outside(url, "alice", security=KEY):
            assert answered(await run) == [1, 1]


async def test_500_who_never_join_are_dropped_and_a_run_goes_well(tmp_path: Path) -> None:
    """At most so many are at the gate; nobody waits for the time that they have, which is 100 s."""
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


# --------------------------------------------------------------------------- the node's end


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
    await channel.close("the coordinator did not go on")


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
    nobody = "alice: waits to join at memory://meeting (nobody serves memory://meeting)"
    why = "this run does not expect alice; see --id here, and --expect-workers there"
    refused = f"alice: waits to join at memory://meeting ({why})"
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
    (line,) = (message for message in caplog.messages if "an error on a link to" in message)
    text = r"alice: an error on a link to memory://meeting: ZeroDivisionError: a bug \(.*test_dial_out\.py, line \d+\)"
    assert re.fullmatch(text, line)


async def test_a_name_that_no_network_can_have_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It is found only where it is looked up."""
    caplog.set_level("INFO", "fedws")
    async with outside(f"ws://{'x' * 64}.example:1", "alice", security=KEY):
        while not caplog.messages:
            await asyncio.sleep(0.01)
    assert caplog.messages[0].startswith("alice: waits to join at ws://xxx")


@pytest.mark.parametrize(
    ("url", "text"),
    [("x://h:1", "nobody serves x://; there are memory, "), ("ws://h", "is no address; one looks like")],
)
async def test_an_address_that_is_none_is_said_at_once(url: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        async with join_run(node("alice"), url, credentials=KEY):
            pass
