"""All links of a run: the first cohort is gathered, events come in order, and nothing is left.

In virtual time.
"""

import asyncio
from dataclasses import replace

import pytest

from fedws.coordinator.worker_links import WorkerLinks
from fedws.core.errors import RunFailed, UnexpectedNode
from fedws.network.base import Channel
from fedws.protocol.messages import TaskResult
from fedws.scheduling.events import ResponseTimed
from tests.helpers.scripted_node import LEFT, LOST, WELCOME, Heard, Peer, asked, failed, refusal, reported, says
from tests.helpers.virtual_time import now, virtual


def fleet(*nodes: str, silence: float = 60, for_ever: bool = False) -> WorkerLinks:
    """Links to these nodes, at their names."""
    found = {node: Heard(f"memory://{node}", node, silence).link for node in nodes}
    return WorkerLinks(found, silence, wait_forever=for_ever)


def peers(*nodes: str) -> dict[str, Peer]:
    """Nodes that answer every order."""
    return {node: Peer(Peer.works, node=node) for node in nodes}


@virtual
async def test_a_cohort_is_gathered_as_soon_as_all_are_there() -> None:
    there = peers("bob", "alice", "charlie")
    async with there["bob"].served(), there["alice"].served(), fleet("alice", "bob", "charlie") as gathered:
        gathering = asyncio.create_task(gathered.wait_until_connected(1))
        await asyncio.sleep(30)
        async with there["charlie"].served():
            assert list((await gathering).items()) == [("alice", 120), ("bob", 120), ("charlie", 120)], "as in the plan"
            assert now() < 36
            assert gathered.worker_labels == {node: [0, 1] for node in ("alice", "bob", "charlie")}


@virtual
async def test_after_silence_a_quorum_is_enough() -> None:
    there = peers("alice", "charlie")
    async with there["alice"].served(), there["charlie"].served(), fleet("alice", "bob", "charlie") as gathered:
        assert await gathered.wait_until_connected(2) == {"alice": 120, "charlie": 120}
        assert now() == 60
        assert gathered.worker_labels == {"alice": [0, 1], "bob": [], "charlie": [0, 1]}


@virtual
async def test_without_a_quorum_the_run_ends_and_names_who_was_awaited() -> None:
    there = peers("alice", "bob")
    async with there["alice"].served(), fleet("alice", "bob", "charlie") as gathered:
        async with there["bob"].served():
            gathering = asyncio.create_task(gathered.wait_until_connected(2))
            await asyncio.sleep(30)
        with pytest.raises(RunFailed) as caught:
            await gathering
    missing = [f"{node} at memory://{node} (no node serves memory://{node})" for node in ("bob", "charlie")]
    assert str(caught.value) == f"not connected within 60 s: {', '.join(missing)}", "bob was there, and left"
    assert now() == 60


@virtual
async def test_a_run_may_wait_for_ever_for_a_quorum() -> None:
    there = peers("alice", "bob")
    async with there["alice"].served(), fleet("alice", "bob", "charlie", for_ever=True) as gathered:
        gathering = asyncio.create_task(gathered.wait_until_connected(2))
        await asyncio.sleep(10_000)
        async with there["bob"].served():
            assert (await gathering).keys() == {"alice", "bob"}, "and no longer than for that"
            assert now() < 10_006


@virtual
async def test_a_wrong_node_that_comes_after_the_gathering_is_away() -> None:
    there = peers("alice")
    wrong = Peer(says(refusal("node")), node="bob")
    async with there["alice"].served(), fleet("alice", "bob") as gathered:
        await gathered.wait_until_connected(1)
        async with wrong.served():
            await asyncio.sleep(60)
            assert not gathered.has_event
            assert "this is bob?, not alice" in gathered.describe_unreachable({"bob"})


@virtual
async def test_a_wrong_node_ends_the_gathering() -> None:
    peer = Peer(says(refusal("node")))
    async with peer.served(), fleet("alice", "bob") as gathered:
        with pytest.raises(UnexpectedNode, match=r"^alice at memory://alice: this is bob\?, not alice$"):
            await gathered.wait_until_connected(1)


@virtual
async def test_an_answer_is_an_event_after_the_time_that_it_took() -> None:
    async def later(peer: Peer, channel: Channel) -> None:
        await channel.send(WELCOME)
        order = await channel.receive()
        await asyncio.sleep(2.5)
        await channel.send(reported(order))
        await channel.receive()
        await channel.send(failed("failed"))
        await channel.receive()

    peer = Peer(later)
    async with peer.served(), fleet("alice") as gathered:
        assert await gathered.wait_until_connected(1) == {"alice": 120}
        gathered.send_request(asked())
        assert gathered.busy_workers == ["alice"]
        assert await gathered.next_event() == ResponseTimed(worker="alice", seconds=2.5)
        assert isinstance(await gathered.next_event(), TaskResult)
        assert gathered.busy_workers == []
        gathered.send_request(asked())
        assert await gathered.next_event() == failed("failed"), "which says nothing of its speed"
        link = gathered.links["alice"]
        assert (
            gathered.bytes_transferred
            == link.bytes_transferred
            == (peer.channels[0].bytes_received, peer.channels[0].bytes_sent)
        )


@virtual
async def test_orders_that_a_lost_link_took_along_come_before_its_left() -> None:
    peer = Peer(Peer.stays)
    async with fleet("alice") as gathered:
        async with peer.served():
            await gathered.wait_until_connected(1)
            gathered.send_request(asked())
            gathered.send_request(asked(round_number=2))
            await asyncio.sleep(1)
        events = [await gathered.next_event() for _ in range(3)]
        lost = [replace(LOST, request_id=f"{round_number}/alice", round=round_number) for round_number in (1, 2)]
        assert events == [*lost, LEFT]
        gathered.send_request(asked(round_number=3))
        assert await gathered.next_event() == replace(LOST, request_id="3/alice", round=3, code="transfer_interrupted")
        assert gathered.busy_workers == []


@virtual
async def test_nothing_is_left_of_a_fleet() -> None:
    before = asyncio.all_tasks()
    peer = Peer(Peer.stays)
    async with peer.served():
        async with fleet("alice", "bob") as gathered:
            await gathered.next_event()
            gathered.send_request(asked())
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert peer.reasons == ["the coordinator ends"]
