"""Every registered transport: closed and lost links, and the reasons that arrive."""

import asyncio

import pytest

from fedws.core.errors import LinkLost, RunEnded
from fedws.network.base import Channel
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.transports.memory import MemoryChannel
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Hello
from tests.helpers.transport_links import LIMITS, dialled, every, hello, linked, served
from tests.helpers.transport_links import broker as broker
from tests.helpers.transport_links import password as password
from tests.helpers.waiting import soon


@every
@pytest.mark.parametrize("dialler_closes", [True, False])
async def test_a_reason_is_read_at_the_other_end(scheme: str, dialler_closes: bool) -> None:
    async with linked(scheme) as (near, far):
        closer, other = (near, far) if dialler_closes else (far, near)
        waiting = asyncio.create_task(other.receive())
        await asyncio.sleep(0)
        await soon(closer.close("busy with another run, ünd söön"))
        with pytest.raises(LinkLost) as lost:
            await soon(waiting)
        assert str(lost.value) == "busy with another run, ünd söön"
        for attempt in (other.receive, other.receive, lambda: other.send(hello())):
            with pytest.raises(LinkLost, match="busy with another run"):
                await soon(attempt())


@every
@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000 or code == CloseCode.NORMAL_CLOSURE])
async def test_the_other_end_of_a_link_reads_whether_the_run_has_ended(scheme: str, code: CloseCode) -> None:
    """With code 1000, by which the coordinator closes its links then."""
    async with linked(scheme) as (near, far):
        await soon(near.close("the coordinator ends", code))
        with pytest.raises(LinkLost, match=r"^the coordinator ends$") as lost:
            await soon(far.receive())
        assert isinstance(lost.value, RunEnded) == (code == 1000)


@every
async def test_who_closed_a_link_cannot_use_it(scheme: str) -> None:
    async with linked(scheme) as (near, _):
        await soon(near.close("enough"))
        for attempt in (near.receive, lambda: near.send(hello())):
            with pytest.raises(LinkLost):
                await soon(attempt())


@every
async def test_closing_twice_and_at_both_ends_is_nothing(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        await soon(near.close("first"))
        await soon(near.close("second"))
        await soon(far.close("third"))
        with pytest.raises(LinkLost, match="first"):
            await soon(far.receive())


@every
async def test_a_link_that_is_closed_without_a_reason_is_lost_in_words(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        await soon(near.close())
        with pytest.raises(LinkLost) as lost:
            await soon(far.receive())
        assert str(lost.value)


@every
async def test_a_reason_without_end_is_cut(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        await soon(near.close("ü" * 1000))
        with pytest.raises(LinkLost) as lost:
            await soon(far.receive())
        assert set(str(lost.value)) == {"ü"}


@every
async def test_what_was_sent_before_closing_arrives(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        await near.send(hello("last words"))
        await soon(near.close("done"))
        assert (await soon(far.receive())).run == "last words"
        with pytest.raises(LinkLost, match="done"):
            await soon(far.receive())


@every
async def test_when_the_handler_returns_the_link_is_closed(scheme: str) -> None:
    async def once(channel: Channel) -> None:
        await channel.send(await channel.receive())

    async with served(scheme, once, LIMITS) as url:
        near = await soon(dialled(scheme, url, LIMITS))
        await near.send(hello())
        assert await soon(near.receive()) == hello()
        with pytest.raises(LinkLost):
            await soon(near.receive())


@every
async def test_a_handler_that_fails_loses_its_own_link_only(scheme: str) -> None:
    async def fragile(channel: Channel) -> None:
        message = await channel.receive()
        if isinstance(message, Hello) and message.run == "break":
            raise RuntimeError("a bug in the node")
        await channel.send(message)

    async with served(scheme, fragile, LIMITS) as url:
        bad, good = [await soon(dialled(scheme, url, LIMITS)) for _ in range(2)]
        await bad.send(hello("break"))
        with pytest.raises(LinkLost):
            await soon(bad.receive())
        await good.send(hello())
        assert await soon(good.receive()) == hello()


@every
async def test_a_node_that_ends_takes_leave(scheme: str) -> None:
    ended = asyncio.Event()

    async def forever(channel: Channel) -> None:
        try:
            await channel.receive()
        finally:
            ended.set()

    async with served(scheme, forever, LIMITS) as url:
        near = await soon(dialled(scheme, url, LIMITS))
        await near.send(hello())
        await soon(ended.wait())
        ended.clear()
        near = await soon(dialled(scheme, url, LIMITS))
        waiting = asyncio.create_task(near.receive())
        await asyncio.sleep(0)
    with pytest.raises(LinkLost) as lost:
        await soon(waiting)
    assert str(lost.value) == "the node ends"
    await soon(ended.wait())


@every
async def test_a_peer_that_vanishes_is_lost(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        if isinstance(near, MemoryChannel):
            await near.close()
        elif isinstance(near, MqttChannel):
            near._sink.on_closed.__self__.abort()  # type: ignore[attr-defined]
        else:
            near._connection.transport.abort()  # type: ignore[attr-defined]
        with pytest.raises(LinkLost):
            await soon(far.receive())
        with pytest.raises(LinkLost):
            await soon(far.send(hello()))
