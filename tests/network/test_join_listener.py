"""Where nodes arrive that dial out: who is held, who is refused and why, and that nobody keeps a node out.

All in virtual time, where to sleep is to have come to that time.
"""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from fedws.coordinator.listener import REPLACED_REASON
from fedws.core.errors import LinkLost
from fedws.core.limits import DEFAULT_MESSAGE_LIMITS
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.network.transports.memory import MemoryChannel
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import MESSAGE_NAMES, Hello, Message, Refusal, TaskRequest, TaskResult
from fedws.scheduling.events import WorkerConnected, WorkerDisconnected
from tests.helpers.dial_out_nodes import HELLO, SECOND, come, join, meeting
from tests.helpers.scripted_node import JOINED, REPORT, WELCOME, Heard, asked, failed, reported
from tests.helpers.virtual_time import now, virtual


async def lost(channel: Channel) -> str:
    """Why a link was closed, before which nothing came."""
    with pytest.raises(LinkLost) as caught:
        await channel.receive()
    return str(caught.value)


async def welcomed(channel: Channel) -> None:
    """Take part, as alice does when she is called."""
    assert await channel.receive() == HELLO
    await channel.send(WELCOME)


async def works(channel: Channel, heard: Heard) -> None:
    """An order goes there, and its answer comes from there."""
    await heard.give(asked())
    order = await channel.receive()
    assert isinstance(order, TaskRequest)
    await channel.send(reported(order))
    assert isinstance(await heard.next(), TaskResult)


@pytest.mark.parametrize("hours", [0, 6])
@virtual
async def test_the_node_may_be_there_first_or_the_run(hours: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedws")
    async with meeting() as (place, url):
        if not hours:
            channel = await come()
            await asyncio.sleep(0)
        async with Heard(url, meeting=place) as heard:
            await asyncio.sleep(3600 * hours)
            if hours:
                assert not heard.all and heard.link.last_error == "it has not joined"
                channel = await come()
            await welcomed(channel)
            assert await heard.next() == JOINED
            assert now() == 3600 * hours and heard.link.connected.is_set() and not heard.link.last_error
            await works(channel, heard)
    said = [f"Waiting for alice at {url} (it has not joined)"]
    assert caplog.messages == said * bool(hours), "said once"


@virtual
async def test_a_node_whose_link_is_lost_joins_again_and_the_events_come_in_order() -> None:
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        for _ in range(3):
            channel = await come()
            await welcomed(channel)
            assert await heard.next() == JOINED
            await works(channel, heard)
            await heard.give(asked())
            await channel.receive()
            await channel.close("the node ends")
            lost, left = await heard.next(), await heard.next()
            assert lost == failed("lost", "link lost: the node ends")
            assert left == WorkerDisconnected(worker="alice", reason="link lost: the node ends")
            assert heard.link.last_error == left.reason and not heard.link.connected.is_set()
            await asyncio.sleep(100)


@virtual
async def test_a_newer_link_of_the_node_takes_the_place_of_one_that_seems_alive() -> None:
    """At once: the node knows that the older one is lost, and here that would be known only after a minute."""
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        older = await come()
        await welcomed(older)
        assert await heard.next() == JOINED
        await heard.give(asked())
        assert isinstance(await older.receive(), TaskRequest)
        newer = await come()
        await welcomed(newer)
        why = f"link lost: {REPLACED_REASON}"
        assert [await heard.next() for _ in range(3)] == [
            failed("lost", why),
            WorkerDisconnected(worker="alice", reason=why),
            JOINED,
        ]
        assert now() < 1 and await lost(older) == REPLACED_REASON
        await works(newer, heard)


@virtual
async def test_a_link_on_which_nothing_is_proved_does_not_take_the_place_of_one_that_is_good() -> None:
    """Who has listened on the path knows the instance, and no more."""
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        channel = await come()
        await welcomed(channel)
        assert await heard.next() == JOINED
        listener = await come()
        assert await listener.receive() == HELLO
        await listener.send(REPORT)
        assert await lost(listener) == "the coordinator ended the handshake"
        silent = await come()
        assert await silent.receive() == HELLO
        assert not heard.link.last_error
        await works(channel, heard)
        assert [type(event) for event in heard.all] == [WorkerConnected, TaskResult]


@virtual
async def test_another_node_of_its_name_is_refused_by_name_and_the_first_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        channel = await come()
        await welcomed(channel)
        assert await heard.next() == JOINED
        for _ in range(3):
            second = await come(join(SECOND))
            assert await second.receive() == Refusal(
                kind="busy", reason="alice seems to be connected already; node ids must differ"
            )
            assert await lost(second) == "closed"
        await works(channel, heard)
        assert [type(event) for event in heard.all] == [WorkerConnected, TaskResult]
        await channel.close()
        assert isinstance(await heard.next(), WorkerDisconnected)
        later = await come(join(SECOND))
        await welcomed(later)
        assert await heard.next() == JOINED, "once the first has gone, the other may come"
    assert caplog.messages == [
        "the coordinator: a node was rejected: alice seems to be connected already; node ids must differ"
    ]


@virtual
async def test_of_two_who_come_together_one_is_taken_and_the_other_closed() -> None:
    async with meeting() as (place, url):
        both = [await come(), await come(join(SECOND))]
        await asyncio.sleep(0)
        async with Heard(url, meeting=place) as heard:
            assert [await channel.receive() for channel in both] == [HELLO, HELLO]
            for channel in both:
                await channel.send(WELCOME)
            assert await heard.next() == JOINED
            first, second = sorted(both, key=lambda channel: str(channel._close_error or ""))  # type: ignore[attr-defined]
            assert await lost(second) == "alice seems to be connected already; node ids must differ"
            await works(first, heard)
            assert [type(event) for event in heard.all] == [WorkerConnected, TaskResult]


@virtual
async def test_nobody_keeps_a_node_out_by_claiming_its_name() -> None:
    """However many come before it, and come again, and say nothing: it is called at once."""
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        strangers = [await come(join(f"{number:064x}")) for number in range(10)]
        for stranger in strangers:
            assert await stranger.receive() == HELLO
        channel = await come()
        await welcomed(channel)
        assert await heard.next() == JOINED and now() == 0
        for stranger in strangers:
            assert await lost(stranger) == "alice seems to be connected already; node ids must differ"
        await works(channel, heard)


WRONG: dict[str, tuple[Message, str]] = {
    "another role": (replace(WELCOME, role="evaluator"), "it is an evaluator, not a worker"),
    "other data": (replace(WELCOME, dataset="digits\n"), "it holds digits?, not points; see --dataset"),
    "a refusal": (Refusal(kind="node", reason="no\x1b"), "no?"),
    "no welcome": (REPORT, "broke the protocol: unexpected message 'task_result', expected 'welcome'"),
}


@pytest.mark.parametrize("name", WRONG)
@virtual
async def test_who_has_proved_nothing_cannot_end_the_run(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where nodes are dialled, each of these ends it."""
    message, trouble = WRONG[name]
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        for _ in range(3):
            stranger = await come(join(SECOND))
            await stranger.receive()
            await stranger.send(message)
            assert await lost(stranger) == "the coordinator ended the handshake"
        assert heard.link.last_error == trouble and not heard.task.done()
        channel = await come()
        await welcomed(channel)
        assert await heard.next() == JOINED
    assert caplog.messages == [f"alice: rejected a node that joined under this name: {trouble}"]


@virtual
async def test_who_was_not_expected_or_is_of_another_protocol_is_refused_and_hears_nothing_of_others() -> None:
    unexpected = "this run does not expect {}; check --id here and --expect-workers there"
    spoken = "the coordinator uses protocol 1, not 2"
    async with meeting() as (_, url):
        for message, kind, reason in (
            (join(node="dora"), "node", unexpected.format("dora")),
            (join(node="d\x1b"), "node", unexpected.format("d?")),
            (join(protocol=2), "protocol", spoken),
            (join(node="dora", protocol=2), "protocol", spoken),
        ):
            refusal = Refusal(kind=kind, reason=reason)  # type: ignore[arg-type]
            channel = await come(message, url)
            assert await channel.receive() == refusal
            assert await lost(channel) == "closed"


@pytest.mark.parametrize("message", [HELLO, WELCOME, REPORT, asked()])
@virtual
async def test_whatever_comes_where_a_join_was_due_ends_the_link(message: Message) -> None:
    async with meeting() as (_, url):
        why = f"unexpected message {MESSAGE_NAMES[type(message)]!r}, expected 'join'"
        assert await lost(await come(message, url)) == why


STORED = "the tensors are in an object store, and this node has none; set --body-store"


@virtual
async def test_tensors_in_a_store_are_not_looked_for_before_a_proof(caplog: pytest.LogCaptureFixture) -> None:
    """Neither on the first message nor on the answer to a hello; and they cannot end the run."""
    stored = encode_message(asked()).without_body("0" * 64, DEFAULT_MESSAGE_LIMITS)
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        for message in (None, join()):
            channel = await find_transport(url).connect(url, Limits())
            assert isinstance(channel, MemoryChannel)
            if message is not None:
                await channel.send(message)
                assert await channel.receive() == HELLO
            await channel.send_raw([bytes(piece) for piece in stored.fragments()])
            assert await lost(channel) == STORED
        assert not heard.task.done() and heard.link.last_error == f"broke the protocol: {STORED}"
    assert any(STORED in line for line in caplog.messages)


@virtual
async def test_who_says_nothing_is_not_waited_for() -> None:
    async with meeting() as (_, url):
        channel = await come(url=url)
        mute = await find_transport(url).connect(url, Limits())
        assert await lost(mute) == "no hello in time" and now() == 10
        assert not channel._close_error, "one that has joined is held"  # type: ignore[attr-defined]


@virtual
async def test_who_joins_and_answers_no_hello_is_let_go_after_silence() -> None:
    """Over sockets much sooner: see the gate."""
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:
        mute = await come()
        assert isinstance(await mute.receive(), Hello)
        assert await lost(mute) == "the coordinator ended the handshake" and now() == 60
        assert heard.link.last_error == "no answer" and not heard.all


@virtual
async def test_links_that_end_in_any_order_leave_nothing() -> None:
    """Also those that were never called."""
    async with meeting() as (place, url):
        channels = [await come(join(instance)) for instance in (SECOND, "3" * 64, SECOND)]
        await asyncio.sleep(0)
        for channel in (channels[1], channels[2], channels[0]):
            await channel.close()
        await asyncio.sleep(1)
        async with Heard(url, meeting=place) as heard:
            channel = await come()
            await welcomed(channel)
            assert await heard.next() == JOINED
            await channel.close()
            await asyncio.sleep(1)
            assert isinstance(heard.all[-1], WorkerDisconnected)
        assert not place._accepted and not any(place._pending.values()) and not any(place._contacted.values())


@virtual
async def test_who_welcomes_every_call_and_is_gone_is_not_heard_of_without_end() -> None:
    async with meeting() as (place, url), Heard(url, meeting=place) as heard:

        async def comes() -> None:
            while True:
                channel = await come()
                with contextlib.suppress(LinkLost):
                    await welcomed(channel)
                await channel.close()

        task = asyncio.create_task(comes())
        await asyncio.sleep(60)
        task.cancel()
        assert {type(event) for event in heard.all} == {WorkerConnected, WorkerDisconnected}
        assert 20 < len(heard.all) < 80


@virtual
async def test_when_the_run_ends_so_do_those_who_wait() -> None:
    async with meeting() as (_, url):
        channel = await come(url=url)
        await asyncio.sleep(0)
    assert await lost(channel) == "the node ends"
