"""Whole runs over nodes that dial out: same results as over dialled nodes, lost links, and resumed runs."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.coordinator.listener import JoinListener
from fedws.core.errors import RunFailed, UsageError
from fedws.network.base import Channel
from fedws.node.dial_out import join_run
from tests.helpers.dial_out_nodes import expecting, free_port, listening, outside
from tests.helpers.federation import WORKERS, Gate, address, federation, happens, settings, worker
from tests.helpers.run_results import answered
from tests.helpers.virtual_runs import ALL, Run, assert_same, there
from tests.helpers.virtual_time import virtual

SCHEMES = pytest.mark.parametrize("scheme", ["memory", "ws"])


def place(scheme: str) -> str:
    """Where a test's run listens, known before it does."""
    return "memory://meeting" if scheme == "memory" else f"ws://localhost:{free_port()}"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """The coordinator's ends of all links on which a node joined."""
    channels: list[Channel] = []
    hold = JoinListener._hold_until_closed

    async def held(self: JoinListener, name: str, guest: Any) -> None:
        channels.append(guest.channel)
        await hold(self, name, guest)

    monkeypatch.setattr(JoinListener, "_hold_until_closed", held)
    return channels


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
        evaluations = [[record for record in one.metrics if record["kind"] == "evaluation"] for one in (result, wanted)]
        assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 8


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
    assert str(error.value) == f"port {port} on 127.0.0.1 is already in use; choose another with --listen"
    assert not (tmp_path / "never").exists()


async def test_a_node_that_never_joins_is_named(tmp_path: Path) -> None:
    url = "memory://meeting"
    async with outside(url, "alice"):
        with pytest.raises(RunFailed) as error:
            await fedws.run(
                run_dir=tmp_path / "never", peer_timeout=1.0, **expecting(url, "alice", "bob", evaluator={})
            )
    assert str(error.value) == f"not connected within 1 s: bob at {url} (it has not joined)"
    assert not (tmp_path / "never").exists()


async def test_addresses_of_two_nodes_are_two(tmp_path: Path) -> None:
    """But for where they join."""
    for nodes in ({"a": "ws://h:1", "b": "ws://h:1"}, {"a": "ws://h:1", "b": "memory://l", "testing": "ws://h:1"}):
        with pytest.raises(UsageError, match=r"^ws://h:1 is the address of two nodes; give each node its own$"):
            more = {"listen": "memory://l"} if "memory://l" in nodes.values() else {}
            await fedws.run(run_dir=tmp_path / "never", **settings(nodes, **more))
    assert not (tmp_path / "never").exists()
