"""What a coordinator makes of answers to its orders, and of orders that cannot be given. In virtual time."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from fedws.core.errors import LinkLost
from fedws.network.base import Channel
from fedws.protocol.messages import Message, TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.events import WorkerDisconnected
from tests.helpers.scripted_node import JOINED, REPORT, WELCOME, Heard, Peer, answers, asked, failed, reported
from tests.helpers.virtual_time import virtual

NOT_DUE: dict[str, tuple[Message, str]] = {
    "no order of that id": (replace(REPORT, request_id="1/bob"), "answer to the unknown request '1/bob'"),
    "another's order": (replace(REPORT, worker="bob"), "answer to the unknown request '1/alice'"),
    "another round": (replace(REPORT, round=2), "answer to the unknown request '1/alice'"),
    "a failure of another": (
        TaskFailure(request_id="9", worker="alice", round=1, kind="failed", reason="?"),
        "answer to the unknown request '9'",
    ),
    "no answer": (WELCOME, "unexpected message 'welcome', expected 'task_result' or 'task_failure'"),
    "control characters": (replace(REPORT, request_id="\x1b[2J\n"), "answer to the unknown request '?[2J?'"),
}


@pytest.mark.parametrize("name", NOT_DUE)
@virtual
async def test_an_answer_that_is_not_due_breaks_the_link(name: str) -> None:
    """The node is told why, the request has failed, since that would happen again, and it is dialled again."""
    message, reason = NOT_DUE[name]
    peer = Peer(answers(message), Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        events = [await heard.next() for _ in range(3)]
    why = f"broke the protocol: {reason}"
    assert events == [failed("failed", why), WorkerDisconnected(worker="alice", reason=why), JOINED]
    assert peer.reasons[0] == reason


@virtual
async def test_an_answer_that_comes_twice_is_not_due_the_second_time() -> None:
    peer = Peer(answers(REPORT, REPORT), Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        assert isinstance(await heard.next(), TaskResult)
        assert isinstance(await heard.next(), WorkerDisconnected)


CLAIMS = {"refused": "refused", "failed": "failed", "lost": "failed", "rejected": "failed"}


@pytest.mark.parametrize(("claimed", "kind"), CLAIMS.items())
@virtual
async def test_a_node_cannot_claim_what_only_the_coordinator_finds(claimed: str, kind: str) -> None:
    peer = Peer(answers(failed(claimed, "line\n\x1b[2J" + 999 * "x")))
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        assert await heard.next() == failed(kind, "line??[2J" + 491 * "x")


@virtual
async def test_an_order_without_a_link_is_lost_at_once() -> None:
    async with Heard() as heard:
        await heard.give(asked())
        unsent = replace(failed("lost", "not connected yet"), code="transfer_interrupted")
        assert heard.all == [unsent], "it was not sent"
        await asyncio.sleep(1)
        lost = await heard.link.execute(asked())
        assert lost == replace(failed("lost", "no node serves memory://alice"), code="transfer_interrupted")


@virtual
async def test_an_order_that_cannot_be_sent_has_failed_and_the_link_stays() -> None:

    async def small(peer: Peer, channel: Channel) -> None:
        await channel.send(replace(WELCOME, max_message_bytes=2048))
        with contextlib.suppress(LinkLost):
            while True:
                await channel.send(reported(await channel.receive()))

    peer = Peer(small)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        failure = await heard.next()
        assert isinstance(failure, TaskFailure)
        assert (failure.kind, failure.code) == ("failed", "permanent")
        assert failure.reason.startswith("the request has 4,")
        assert "alice's limit of 2,048 bytes" in failure.reason
        other = TaskRequest(request_id="2", worker="alice", round=2, task="t")
        assert await heard.link.execute(other) == reported(other)
    assert len(peer.dialled) == 1


@virtual
async def test_bytes_are_counted_over_all_links() -> None:
    peer = Peer(Peer.works)
    counts = []
    async with Heard() as heard:
        for round_number in (1, 2, 3):
            async with peer.served():
                assert await heard.next() == JOINED
                assert isinstance(await heard.link.execute(asked(round_number=round_number)), TaskResult)
                counts.append(heard.link.bytes_transferred)
            assert isinstance(await heard.next(), WorkerDisconnected)
            assert heard.link.bytes_transferred == counts[-1]
    for number, (sent, received) in enumerate(counts, 1):
        assert sent == sum(channel.bytes_received for channel in peer.channels[:number]) > number * 4000
        assert received == sum(channel.bytes_sent for channel in peer.channels[:number]) > number * 4000
