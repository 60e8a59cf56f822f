"""Every registered transport: messages in both directions, and addresses."""

import asyncio
from typing import Any

import pytest
import torch

from fedws.core.errors import Unreachable, UsageError
from fedws.core.limits import CHUNK_BYTES, DEFAULT_MESSAGE_LIMITS
from fedws.network.base import Limits
from fedws.network.lookup import find_transport
from fedws.network.mqtt import connection
from fedws.network.transports import ws
from fedws.protocol.encoder import FRAGMENT_BYTES, encode_message
from tests.helpers.federation import PatientLimits
from tests.helpers.transport_links import (
    ADDRESS,
    LIMITS,
    SCHEMES,
    dialled,
    echo,
    every,
    hello,
    linked,
    made,
    order,
    served,
)
from tests.helpers.transport_links import broker as broker
from tests.helpers.transport_links import password as password
from tests.helpers.waiting import soon

EACH = {"memory": 0, "ws": 15, "mqtt": 100}
"""Bytes that a transport adds to a piece of a message, at most."""


def test_every_transport_has_an_address_here() -> None:
    assert set(ADDRESS) == set(SCHEMES)


# --------------------------------------------------------------------------- messages


@every
async def test_messages_go_both_ways_in_their_order(scheme: str) -> None:
    async with linked(scheme) as ends:
        for sender, receiver in (ends, reversed(ends)):
            for number in range(5):
                await sender.send(hello(str(number)))
            assert [(await soon(receiver.receive())).run for _ in range(5)] == list("01234")


@every
async def test_tensors_arrive_as_they_were_and_in_memory_of_their_own(scheme: str) -> None:
    tensors = {"w": torch.randn(3, 4).t(), "n": torch.tensor(3), "b": torch.tensor([True]), "e": torch.zeros(0, 2)}
    async with linked(scheme) as (near, far):
        await near.send(order(**tensors))
        found = (await soon(far.receive())).tensors
    assert list(found) == list(tensors)
    assert all(found[key].dtype == tensors[key].dtype and torch.equal(found[key], tensors[key]) for key in tensors)
    found["w"].zero_()
    assert tensors["w"].abs().sum() > 0


@every
@pytest.mark.parametrize("size", [2**20 - 300, 2**20, 2**20 + 1, 8 * 2**20 + 17])
async def test_a_large_message_arrives_whole(scheme: str, size: int) -> None:
    weights = torch.arange(size // 4 * 4 // 8 + 1) * 0x9E3779B97F4A7C1
    async with linked(scheme) as (near, far):
        sending = asyncio.create_task(near.send(order(w=weights)))
        found = await soon(far.receive())
        await soon(sending)
    assert torch.equal(found.tensors["w"], weights)


@every
async def test_an_idle_link_lasts_longer_than_the_silence(scheme: str) -> None:
    """Each transport's own tests cover slow, silent and stopped peers, as test_liveness.py does."""
    async with linked(scheme, PatientLimits(peer_timeout=0.3)) as (near, far):
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(0.9)  # three silences: the link must outlast them
        await near.send(hello())
        assert await soon(waiting) == hello()


@every
async def test_links_do_not_mix(scheme: str) -> None:
    async with served(scheme, echo, LIMITS) as url:
        channels = [await soon(dialled(scheme, url, LIMITS)) for _ in range(8)]

        async def talk(number: int) -> list[Any]:
            answers = []
            for turn in range(5):
                await channels[number].send(order(w=torch.full((1000,), number * 10 + turn)))
                answers.append(await soon(channels[number].receive()))
            return answers

        for number, answers in enumerate(await asyncio.gather(*map(talk, range(8)))):
            assert [set(answer.tensors["w"].tolist()) for answer in answers] == [
                {number * 10 + turn} for turn in range(5)
            ]
        await asyncio.gather(*(channel.close() for channel in channels))


@every
async def test_both_ends_may_send_at_once(scheme: str) -> None:
    message = order(w=torch.ones(2**19))
    async with linked(scheme) as (near, far):
        found = await soon(asyncio.gather(near.send(message), far.send(message), near.receive(), far.receive()))
    assert all(torch.equal(one.tensors["w"], message.tensors["w"]) for one in found[2:])


@every
async def test_bytes_are_counted_alike_at_both_ends(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        assert (near.bytes_sent, near.bytes_received, far.bytes_sent, far.bytes_received) == (0, 0, 0, 0)
        for message in (
            hello(),
            order(w=torch.ones(100)),
            order(w=torch.ones(3 * 2**18 + 5)),
            order(w=torch.ones(4, 70_000)),
        ):
            for sender, receiver in ((near, far), (far, near)):
                before = sender.bytes_sent
                await asyncio.gather(sender.send(message), soon(receiver.receive()))
                encoded = encode_message(message)
                size = (
                    encoded.size
                    if encoded.body_size <= CHUNK_BYTES
                    else encoded.with_offset("0" * 64, 0, DEFAULT_MESSAGE_LIMITS).size
                )
                pieces = size // connection.MAX_PAYLOAD_BYTES + 4 if scheme == "mqtt" else size // FRAGMENT_BYTES + 2
                assert size <= sender.bytes_sent - before <= size + EACH[scheme] * pieces
                assert (sender.bytes_sent, sender.bytes_received) == (receiver.bytes_received, receiver.bytes_sent)


@every
async def test_a_message_is_read_only_once_it_is_asked_for(scheme: str) -> None:
    async with linked(scheme) as (near, far):
        await near.send(hello("1"))
        await near.send(hello("2"))
        first = await soon(far.receive())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await near.receive()
        assert (first.run, (await soon(far.receive())).run) == ("1", "2")


# --------------------------------------------------------------------------- addresses


@every
async def test_nobody_is_reached_where_nobody_serves(scheme: str) -> None:
    async with served(scheme, echo, LIMITS) as url:
        pass
    with pytest.raises(Unreachable) as caught:
        await soon(dialled(scheme, url, Limits(peer_timeout=3)))
    assert str(caught.value) and "\n" not in str(caught.value)


@every
async def test_an_address_is_served_once_at_a_time(scheme: str) -> None:
    async with served(scheme, echo, LIMITS) as url:
        with pytest.raises(UsageError) as caught:
            async with served(scheme, echo, LIMITS, url):
                raise AssertionError("it is taken")
        assert "\n" not in str(caught.value)
        near = await soon(dialled(scheme, url, LIMITS))
        await near.send(hello())
        assert await soon(near.receive()) == hello(), "the first continues"
        await near.close()
    async with served(scheme, echo, LIMITS, url) as again:
        assert again == url
        near = await soon(dialled(scheme, url, LIMITS))
        await near.close()


@every
async def test_what_is_served_can_be_dialled_and_checked(scheme: str) -> None:
    async with served(scheme, echo, LIMITS) as url:
        assert url.startswith(f"{scheme}://")
        made(scheme).check_url(url)
        assert type(find_transport(url)) is type(made(scheme))


def test_an_unknown_scheme_is_told_with_those_there_are() -> None:
    for url in ("http://localhost:1", "localhost", ""):
        with pytest.raises(UsageError, match=r"unknown scheme '.*'; choose from memory, mqtt, mqtts, ws, wss"):
            find_transport(url)


@pytest.mark.parametrize("url", ["ws://", "ws://:1", "ws://localhost:x", "ws://localhost:99999", "ws://[::1"])
async def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="is not a valid address"):
        made("ws").check_url(url)
    with pytest.raises(UsageError, match="is not a valid address"):
        await made("ws").connect(url, LIMITS)
    with pytest.raises(UsageError, match="is not a valid address"):
        async with made("ws").serve(url, echo, LIMITS):
            pass


@pytest.mark.parametrize("url", ["ws://localhost", "wss://localhost/path", "ws://[::1]"])
async def test_an_address_without_a_port_has_the_default_port_but_cannot_be_listened_at(url: str) -> None:
    find_transport(url).check_url(url)
    with pytest.raises(UsageError, match="has no port to listen on; add one, such as "):
        async with find_transport(url).serve(url, echo, LIMITS):
            pass


@pytest.mark.parametrize(
    ("url", "port"), [("ws://localhost", 80), ("wss://h/p", 443), ("WSS://h", 443), ("ws://h:1", 1)]
)
def test_the_default_ports_are_those_of_http(url: str, port: int) -> None:
    assert ws._parse_url(url)[1] == port


async def test_a_host_that_is_not_this_machine_cannot_be_served() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        async with made("ws").serve("ws://192.0.2.1:0", echo, LIMITS):
            pass


async def test_what_is_no_websocket_is_unreachable() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="not a WebSocket server"):
            await soon(made("ws").connect(f"ws://127.0.0.1:{port}", LIMITS))
