"""The coordinator's end of a link: when it dials, whom it takes for its node, and how it comes back.

Most of it is in virtual time, where to sleep is to have come to that time.
"""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import fedws
from fedws.core.errors import RunFailed, UnexpectedNode
from fedws.network.backoff import FIRST_DELAY_SECONDS as FIRST_PAUSE
from fedws.network.base import Channel, Limits
from fedws.network.transports.memory import MemoryTransport
from fedws.node.run_lease import TAKEN_OVER_REASON
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Message, TaskResult
from fedws.scheduling.events import WorkerConnected, WorkerDisconnected
from fedws.simulation import virtual_loop
from tests.helpers.federation import PATIENCE, worker
from tests.helpers.scripted_node import (
    JOINED,
    LEFT,
    LOST,
    REPORT,
    WELCOME,
    Heard,
    Peer,
    answers,
    asked,
    failed,
    refusal,
    says,
)
from tests.helpers.virtual_time import now, virtual


@virtual
async def test_the_node_may_be_there_first() -> None:
    peer = Peer(Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        assert now() == 0 and heard.link.connected.is_set() and not heard.link.last_error
        assert heard.link.welcome == WELCOME


@virtual
async def test_the_coordinator_may_be_there_first(caplog: pytest.LogCaptureFixture) -> None:
    """By hours."""
    caplog.set_level("INFO", "fedws")
    async with Heard() as heard:
        await asyncio.sleep(20_000)
        assert not heard.all and not heard.link.connected.is_set()
        peer = Peer(Peer.stays)
        async with peer.served():
            assert await heard.next() == JOINED
            assert 20_000 < now() <= 20_005
    assert caplog.messages == ["Waiting for alice at memory://alice (no node serves memory://alice)"], "said once"


async def dials(monkeypatch: pytest.MonkeyPatch, seconds: float, **more: Any) -> list[float]:
    """When a link dials a node that is not there."""
    times: list[float] = []
    connect = MemoryTransport.connect

    async def counted(self: MemoryTransport, url: str, limits: Limits, *more: Any, **named: Any) -> Channel:
        times.append(now())
        return await connect(self, url, limits, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryTransport, "connect", counted)
        async with Heard(**more):
            await asyncio.sleep(seconds)
    return times


@pytest.mark.parametrize("silence", [60.0, 12.0, 0.5])
def test_pauses_double_up_to_a_bound_and_are_drawn(monkeypatch: pytest.MonkeyPatch, silence: float) -> None:
    most = max(FIRST_PAUSE, silence / 12)
    times = virtual_loop.run_in_virtual_time(dials(monkeypatch, 300, silence=silence))
    pauses = [after - before for before, after in pairwise(times)]
    assert times[0] == 0
    for number, pause in enumerate(pauses):
        longest = min(FIRST_PAUSE * 2 ** min(number, 10), most)
        assert longest / 2 <= pause + 1e-9 and pause <= longest + 1e-9
    late = pauses[10:]
    assert min(late) < 0.6 * most and max(late) > 0.9 * most, "over all of the range"


def test_nodes_are_not_dialled_in_step_and_a_run_again_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def when(**more: Any) -> tuple[float, ...]:
        return tuple(virtual_loop.run_in_virtual_time(dials(monkeypatch, 60, **more)))

    alice = when()
    assert when() == alice
    assert len({alice, when(node="bob"), when(seed=2)}) == 3
    assert not set(alice[1:]) & set(when(node="bob"))


@virtual
async def test_a_lost_link_is_dialled_again_and_the_events_come_in_order() -> None:
    peer = Peer(Peer.stays)
    async with Heard() as heard:
        for again in range(3):
            async with peer.served():
                assert await heard.next() == JOINED
                await heard.give(asked())
                began = now()
            assert [await heard.next(), await heard.next()] == [LOST, LEFT]
            assert not heard.link.connected.is_set() and heard.link.last_error == LEFT.reason
            assert heard.link.disconnected_since == began == now()
            await asyncio.sleep(50 * again)
    assert heard.all == 3 * [JOINED, LOST, LEFT]


@virtual
async def test_who_welcomes_every_run_and_is_gone_is_not_dialled_without_end() -> None:
    """As what stands before a node that is down may do."""

    async def goes(peer: Peer, channel: Channel) -> None:
        await (peer.welcomes if len(peer.dialled) < 100 else peer.stays)(channel)

    peer = Peer(goes)
    async with peer.served(), Heard() as heard:
        await asyncio.sleep(60)
        assert [type(event) for event in heard.all] == [WorkerConnected, WorkerDisconnected] * len(peer.dialled)
        assert 12 < len(peer.dialled) < 40
        peer.script = [answers(REPORT), Peer.stays]
        while heard.link.last_error:
            await heard.next()
        await heard.give(asked())
        while not isinstance(await heard.next(), TaskResult):
            pass
        await peer.channels[-1].close()
        since = now()
        while not heard.link.connected.is_set():
            await heard.next()
        assert now() - since <= FIRST_PAUSE, "one that has answered is dialled again at once"


@virtual
async def test_a_mute_peer_is_given_up_after_silence_and_dialled_again() -> None:
    async def mute(peer: Peer, channel: Channel) -> None:
        await asyncio.Event().wait()

    peer = Peer(mute, Peer.stays)
    async with peer.served(), Heard(silence=6) as heard:
        await asyncio.sleep(6)
        await asyncio.sleep(0)
        assert heard.link.last_error == "no answer"
        assert await heard.next() == JOINED
    assert 6 < peer.dialled[1] < 6.2


WRONG: dict[str, tuple[Message, type[Exception], str]] = {
    "another node": (refusal("node"), UnexpectedNode, "this is bob?, not alice"),
    "another protocol": (refusal("protocol"), UnexpectedNode, "this is bob?, not alice"),
    "another role": (
        replace(WELCOME, role="evaluator"),
        UnexpectedNode,
        "it is an evaluator, not a worker",
    ),
    "other data": (
        replace(WELCOME, dataset="digits\n"),
        UnexpectedNode,
        "it holds digits?, not points; see --dataset",
    ),
    "no welcome": (REPORT, RunFailed, "unexpected message 'task_result', expected 'welcome'"),
}


@pytest.mark.parametrize("name", WRONG)
@virtual
async def test_who_is_not_the_node_that_was_meant_ends_the_run(name: str) -> None:
    message, kind, reason = WRONG[name]
    peer = Peer(says(message))
    async with peer.served(), Heard() as heard:
        with pytest.raises(kind) as caught:
            await heard.task
        assert str(caught.value) == f"alice at memory://alice: {reason}"
        assert not heard.all


@pytest.mark.parametrize("contact", ["second", "first, of a run that is going on"])
@pytest.mark.parametrize("name", WRONG)
@virtual
async def test_later_it_is_dialled_on(name: str, contact: str) -> None:
    """An address may be given to another device for a while."""
    message, _, reason = WRONG[name]
    peer = Peer(Peer.welcomes, says(message), says(message), Peer.stays)
    async with peer.served(), Heard() as heard:
        if contact == "second":
            assert [type(await heard.next()) for _ in range(2)] == [WorkerConnected, WorkerDisconnected]
        else:
            peer.script[0] = says(message)
            heard.link.connector.fail_on_unexpected_node = False
        while len(peer.dialled) < 3:
            await asyncio.sleep(0.01)
        assert heard.link.last_error.removeprefix("broke the protocol: ") == reason
        assert await heard.next() == JOINED


@virtual
async def test_a_busy_node_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedws")
    peer = Peer(*3 * [says(refusal("busy"))], Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
    assert len(peer.dialled) == 4
    assert caplog.messages == ["Waiting for alice at memory://alice (this is bob?, not alice)"]


@virtual
async def test_a_node_that_another_coordinator_took_over_is_left_to_it() -> None:
    """That one goes on with the same run; two that dial again would take the node from each other for ever."""
    peer = Peer(Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        await peer.channels[0].close("any text", CloseCode.TAKEN_OVER)
        with pytest.raises(RunFailed) as caught:
            await heard.task
    assert str(caught.value) == "alice at memory://alice: any text"
    why = "link lost: any text"
    assert heard.all[1:] == [failed("lost", why), WorkerDisconnected(worker="alice", reason=why)]
    assert len(peer.dialled) == 1


@pytest.mark.usefixtures("nobody_has_a_key")
async def test_two_coordinators_of_one_run_do_not_take_a_worker_from_each_other() -> None:
    """The same over sockets, with a worker that is none of the test's making."""
    async with fedws.serve(worker(), "ws://localhost:0") as url, Heard(url) as first:
        assert await asyncio.wait_for(first.next(), PATIENCE) == replace(JOINED, num_examples=120)
        async with Heard(url) as second:
            assert isinstance(await asyncio.wait_for(second.next(), PATIENCE), WorkerConnected)
            with pytest.raises(RunFailed, match=rf"^alice at {url}: {TAKEN_OVER_REASON}$"):
                await asyncio.wait_for(first.task, PATIENCE)
            assert not second.link.last_error


@virtual
async def test_an_evaluator_s_wrong_node_is_one_that_is_away() -> None:
    peer = Peer(says(refusal("node")))
    async with peer.served(), Heard(role="evaluator") as heard:
        await asyncio.sleep(60)
        assert not heard.task.done() and heard.link.last_error == "this is bob?, not alice"
