"""Every registered transport: whole messages both ways, reasons that arrive, and peers that misbehave alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import product
from typing import Any

import pytest
import torch
import websockets

from fedws.core import registry
from fedws.core.errors import (
    LinkLost,
    MessageRejected,
    MessageTooLarge,
    ProtocolError,
    TakenOver,
    Unreachable,
    UsageError,
)
from fedws.core.limits import CHUNK_BYTES, DEFAULT_MESSAGE_LIMITS, MessageLimits
from fedws.network.base import Channel, Handler, Limits, Transport
from fedws.network.lookup import find_transport
from fedws.network.mqtt import connection
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.mqtt.frames import FrameKind
from fedws.network.transports.memory import MemoryChannel
from fedws.protocol.encoder import FRAGMENT_BYTES, encode_message
from fedws.protocol.messages import Hello, TaskRequest
from tests.helpers.federation import PatientLimits
from tests.helpers.mosquitto import MISSING, PASSWORD, PROGRAM, mosquitto
from tests.helpers.support import require

SCHEMES = registry.list_pieces("transport")
ADDRESS = {"memory": "memory://node", "ws": "ws://localhost:0", "mqtt": ""}
"""Where a test serves a transport; a new transport needs a line here and, for hostile bytes, one in ``raw``."""
NODE = "alice"
EACH = {"memory": 0, "ws": 15, "mqtt": 100}
"""Bytes that a transport adds to a piece of a message, at most."""
LIMITS = Limits(max_message_bytes=2**24, peer_timeout=60.0)
PATIENCE = 60.0
every = pytest.mark.parametrize("scheme", SCHEMES)


async def soon(what: Awaitable[Any]) -> Any:
    """A result that comes at once or, if something is wrong, never."""
    async with asyncio.timeout(PATIENCE):
        return await what


def made(scheme: str) -> Transport:
    found: Transport = registry.find_piece("transport", scheme)()
    return found


@pytest.fixture(scope="module", autouse=True)
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For ``mqtt``; a machine without one skips the tests that need it, and no others."""
    if PROGRAM is None:
        yield
        return
    with mosquitto(tmp_path_factory.mktemp("broker")) as real:
        ADDRESS["mqtt"] = real.url
        yield


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)


def served(scheme: str, handle: Handler, limits: Limits, url: str = "") -> AbstractAsyncContextManager[str]:
    """A node at its transport's address, or at another one."""
    if scheme == "mqtt":
        require(PROGRAM, MISSING)
    return made(scheme).serve(url or ADDRESS[scheme], handle, limits, node=NODE)


async def dialled(scheme: str, url: str, limits: Limits) -> Channel:
    return await made(scheme).connect(url, limits, NODE)


@contextlib.asynccontextmanager
async def linked(
    scheme: str, limits: Limits = LIMITS, theirs: Limits | None = None
) -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a link: the one that dialled, and the one that was dialled."""
    arrived: asyncio.Queue[Channel] = asyncio.Queue()
    done = asyncio.Event()

    async def handle(channel: Channel) -> None:
        arrived.put_nowait(channel)
        await done.wait()

    async with served(scheme, handle, theirs or limits) as url:
        near = await soon(dialled(scheme, url, limits))
        far = await soon(arrived.get())
        near.mark_authenticated()
        far.mark_authenticated()
        try:
            yield near, far
        finally:
            done.set()
            await near.close()


async def echo(channel: Channel) -> None:
    """Sends back what comes, until the link is lost."""
    channel.mark_authenticated()
    with contextlib.suppress(LinkLost):
        while True:
            await channel.send(await channel.receive())


def hello(run: str = "r") -> Hello:
    return Hello(run=run, node="alice", protocol=1)


def order(**tensors: torch.Tensor) -> TaskRequest:
    return TaskRequest(request_id="1/alice", worker="alice", round=1, task="t", settings={"lr": 0.1}, tensors=tensors)


async def raw(scheme: str, url: str, pieces: Sequence[bytes | str]) -> str:
    """Send any bytes as one message, in these fragments, past our own code; gives why the other end closed."""
    if scheme == "memory":
        channel = await dialled(scheme, url, LIMITS)
        assert isinstance(channel, MemoryChannel)
        await channel.send_raw([piece.encode() if isinstance(piece, str) else piece for piece in pieces])
        with pytest.raises(LinkLost) as lost:
            await soon(channel.receive())
        return str(lost.value)
    if scheme == "mqtt":
        channel = await dialled(scheme, url, LIMITS)
        assert isinstance(channel, MqttChannel)
        parts = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        for number, part in enumerate(parts, 1):
            while not channel._endpoint.can_send:
                await asyncio.sleep(0)
            channel._send_frame(FrameKind.END if number == len(parts) else FrameKind.DATA, part)
        with pytest.raises(LinkLost) as lost:
            await soon(channel.receive())
        await channel.close()
        return str(lost.value)
    async with websockets.connect(url, compression=None, proxy=None, max_size=None) as socket:
        with contextlib.suppress(websockets.ConnectionClosed):  # it may be told before it has sent all
            await socket.send(list(pieces) if isinstance(pieces[0], bytes) else str(pieces[0]))
        await soon(socket.wait_closed())
        return socket.close_reason or ""


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
    """How slow, silent and stopped peers are told apart is for a transport's own tests, as in test_liveness.py."""
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


# --------------------------------------------------------------------------- ends


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
        assert await soon(near.receive()) == hello(), "the first goes on"
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
        with pytest.raises(UsageError, match=r"nobody serves .*; there are memory, mqtt, mqtts, ws, wss"):
            find_transport(url)


@pytest.mark.parametrize("url", ["ws://localhost", "ws://:1", "ws://localhost:x", "ws://localhost:99999", "ws://[::1"])
async def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        made("ws").check_url(url)
    with pytest.raises(UsageError, match="is no address"):
        await made("ws").connect(url, LIMITS)
    with pytest.raises(UsageError, match="is no address"):
        async with made("ws").serve(url, echo, LIMITS):
            pass


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
        with pytest.raises(Unreachable, match="no websocket there"):
            await soon(made("ws").connect(f"ws://127.0.0.1:{port}", LIMITS))


# --------------------------------------------------------------------------- limits and hostile bytes


@every
async def test_a_message_above_the_limit_is_not_sent(scheme: str) -> None:
    async with linked(scheme, LIMITS, theirs=Limits(max_message_bytes=4096)) as (near, far):
        near.transfers.set_peer_limits(MessageLimits(4096, peer="bob"))  # as the handshake does
        with pytest.raises(MessageTooLarge, match="bytes, and bob accepts at most 4,096"):
            await near.send(order(w=torch.ones(2000)))
        await near.send(hello())
        assert await soon(far.receive()) == hello(), "and nothing of it was"


@every
async def test_a_message_above_the_receivers_limit_is_refused(scheme: str) -> None:
    async with linked(scheme, LIMITS, theirs=Limits(max_message_bytes=4096)) as (near, far):
        with contextlib.suppress(LinkLost):
            await near.send(order(w=torch.ones(2000)))
        with pytest.raises(ProtocolError, match=r"bytes.* 4096"):
            await soon(far.receive())


HELLO = b"".join(bytes(piece) for piece in encode_message(hello()).fragments())
HOSTILE: dict[str, list[bytes | str]] = {
    "noise": [b"\0\1\2\3" * 10],
    "text": ["hello"],
    "nothing": [b""],
    "HTTP": [b"GET / HTTP/1.1\r\n\r\n"],
    "a message cut short": [HELLO[:-1]],
    "a message with more behind": [HELLO, b"more"],
    "two messages in one": [HELLO, HELLO],
    "another version": [HELLO[:4] + b"\2" + HELLO[5:]],
    "a header too long": [HELLO[:8] + b"\xff\xff\xff\xff" + HELLO[12:]],
    "a message in one fragment too long": [b"".join(encode_message(order(w=torch.ones(2**19))).fragments())],
    "many fragments of nothing": [b""] * 50,
}
UNSENT = {("mqtt", "a message in one fragment too long")}
"""A broker keeps from us packets that are larger than we take."""


@pytest.mark.parametrize(("scheme", "what"), [pair for pair in product(SCHEMES, HOSTILE) if pair not in UNSENT])
async def test_bytes_that_are_no_message_are_refused_and_others_are_served(scheme: str, what: str) -> None:
    raised: asyncio.Queue[Exception] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        try:
            await echo(channel)
        except Exception as error:
            raised.put_nowait(error)
            await channel.close(str(error))

    async with served(scheme, handle, LIMITS) as url:
        before = await soon(dialled(scheme, url, LIMITS))
        reason = await soon(raw(scheme, url, HOSTILE[what]))
        error = await soon(raised.get())
        assert isinstance(error, ProtocolError)
        assert str(error).startswith(reason) and reason
        for channel in (before, await soon(dialled(scheme, url, LIMITS))):
            await channel.send(hello())
            assert await soon(channel.receive()) == hello()
            await channel.close()
        assert raised.empty()


@every
async def test_a_message_in_small_pieces_is_a_message(scheme: str) -> None:
    found: asyncio.Queue[Any] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        found.put_nowait(await channel.receive())

    async with served(scheme, handle, LIMITS) as url:
        pieces = [HELLO[start : start + 7] for start in range(0, len(HELLO), 7)]
        await soon(raw(scheme, url, pieces))
        assert await soon(found.get()) == hello()


@pytest.mark.parametrize("code", [1002, 1009, 1011, 4000, 4001, 4002])
async def test_a_peer_that_finds_fault_with_us_is_lost_and_not_at_fault(code: int) -> None:
    raised: asyncio.Queue[Exception] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        try:
            await channel.receive()
        except Exception as error:
            raised.put_nowait(error)

    async with served("ws", handle, LIMITS) as url:
        async with websockets.connect(url, compression=None, proxy=None) as socket:
            await socket.close(code, "what was that")
        error = await soon(raised.get())
    kinds = {1002: MessageRejected, 1009: MessageRejected, 4001: TakenOver, 4002: MessageRejected}
    assert type(error) is kinds.get(code, LinkLost) and str(error) == "what was that"
