"""The worker in JavaScript outlives garbage, before the proof and after, and callers who are slow or too many."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fedws.core.errors import LinkLost
from fedws.protocol import encoder
from tests.helpers.javascript_worker import alice, dialled
from tests.helpers.processes import PATIENCE, Processes, serving


def raw(header: object, body: bytes = b"") -> bytes:
    """A message with any header."""
    packed: bytes = msgpack.packb(header) if not isinstance(header, bytes) else header
    head = encoder.MAGIC + (1).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    return head + bytes(-len(head) % 64) + body


def header(**changed: Any) -> dict[str, Any]:
    """That of a hello."""
    fields = {"run": "run", "node": "alice", "protocol": 1, "coordinator": "c", "nonce": "ab" * 32}
    whole: dict[str, Any] = {
        "type": "hello",
        "fields": fields,
        "tensors": [],
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    return {**whole, **changed}


def entry(**changed: Any) -> dict[str, Any]:
    """A tensor's in the table."""
    return {"name": "w", "dtype": "float32", "shape": [2], "length": 8, **changed}


FIELDS = header()["fields"]
GARBAGE: dict[str, tuple[bytes | str | list[bytes], int]] = {
    "text": ("hello", 4002),
    "nothing": (b"", 4002),
    "bytes": (bytes(range(256)), 4002),
    "half a prefix": (raw(header())[:9], 4002),
    "half a header": (raw(header())[:60], 4002),
    "another version": (b"FDWS\x02\0\0\0" + raw(header())[8:], 4002),
    "a header of 4 GB": (b"FDWS\1\0\0\0\xff\xff\xff\xff", 4002),
    "more than the header": (raw(header(), b"more"), 4002),
    "no map": (raw([1, 2]), 4002),
    "two maps": (raw(msgpack.packb(header()) * 2), 4002),
    "no msgpack": (raw(b"\xc1" * 40), 4002),
    "arrays in arrays": (raw(b"\x9f" * 60_000), 4002),
    "long arrays in arrays": (raw(b"\xdc\xff\xff" * 20_000), 4002),
    "an array of 4 G": (raw(b"\xdd\xff\xff\xff\xff"), 4002),
    "arrays in an array": (raw(header(fields=[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]])), 4002),
    "a path for a name": (raw(header(type="task_request", tensors=[entry(name="../w")]), bytes(8)), 4002),
    "maps in maps": (raw(b"\x81\xa1a" * 20_000), 4002),
    "a prototype": (raw(header(fields={**FIELDS, "__proto__": 1})), 4002),
    "a constructor": (raw(header(fields={**FIELDS, "constructor": 1})), 4002),
    "bytes for text": (raw(header(type=b"hello")), 4002),
    "a type that is none": (raw(header(type="toString")), 4002),
    "a request first": (raw(header(type="task_request")), 4002),
    "a missing key": (raw({key: value for key, value in header().items() if key != "digest"}), 4002),
    "an offset": (raw(header(offset=64)), 4002),
    "a long name": (raw(header(fields={**FIELDS, "run": "r" * 65})), 4002),
    "a short nonce": (raw(header(fields={**FIELDS, "nonce": "ab"})), 4002),
    "a hello with a tensor": (raw(header(tensors=[entry()]), bytes(8)), 4002),
    "a tensor cut short": (raw(header(tensors=[entry()]), bytes(7)), 4002),
    "a tensor of another length": (raw(header(tensors=[entry(length=4)]), bytes(4)), 4002),
    "a tensor of 2^60 bytes": (raw(header(tensors=[entry(shape=[2**40], length=2**42)])), 4002),
    "a dtype that is none": (raw(header(tensors=[entry(dtype="valueOf")]), bytes(8)), 4002),
    "a tensor twice": (raw(header(tensors=[entry(), entry()]), bytes(72)), 4002),
    "a proof that is none": ([raw(header()), raw(header(type="proof", fields={"proof": "00"}))], 4002),
    "a hello again": ([raw(header()), raw(header())], 4002),
    "too long before the proof": (bytes(2**16 + 1), 4002),
    "far too long before the proof": (bytes(2**20), 1006),
}
"""What is sent, and the code that the link is closed with; 1006 is none."""


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_closes_the_link_and_ends_nothing(url: str, name: str) -> None:
    sent, code = GARBAGE[name]
    async with asyncio.timeout(PATIENCE), connect(url, compression=None) as socket:
        assert await closed(socket, sent if isinstance(sent, list) else [sent]) == code


async def closed(socket: ClientConnection, messages: Sequence[bytes | str]) -> int:
    """The code that it is closed with, once these were sent."""
    try:
        for message in messages:
            await socket.send(message)
        async for _ in socket:
            pass
    except ConnectionClosed:
        pass
    return socket.close_code or 1006


async def test_garbage_after_the_proof_closes_the_link(url: str) -> None:
    """Among it a table of more tensors than it reads, and arrays that would take all memory."""
    for data in (
        b"",
        raw(header()),
        raw(header(tensors=[entry(name=str(n)) for n in range(99)])),
        raw(b"\xdc\xff\xff" * 99_999),
    ):
        async with dialled(url) as channel:
            await channel._connection.send(data)  # type: ignore[attr-defined]
            with pytest.raises(LinkLost):
                await channel.receive()


@pytest.mark.parametrize(
    "sent",
    [b"", bytes(99), b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01", b"a" * 99_999],
    ids=["nothing", "zeros", "no host", "a request", "TLS", "no end"],
)
async def test_what_is_no_websocket_is_dropped(url: str, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    with contextlib.suppress(OSError):  # it may be gone before all is written
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    writer.close()


async def test_a_frame_that_breaks_the_rules_is_told(url: str) -> None:
    async with asyncio.timeout(PATIENCE), connect(url, compression=None) as socket:
        socket.transport.write(b"\xff\xff\xff\xff")
        assert await closed(socket, []) in (1002, 1006)


async def test_the_slow_are_dropped(processes: Processes, node: str, data: Path) -> None:
    """A sixth of the peer timeout is for all of the handshake; signs of life do not prolong it."""
    url = serving({"alice": await asyncio.to_thread(alice, processes, node, data, "--peer-timeout", "6")})["alice"]
    async with asyncio.timeout(PATIENCE), connect(url, compression=None, ping_interval=0.1) as socket:
        began = asyncio.get_running_loop().time()
        assert await closed(socket, []) == 1006
        assert 0.5 < asyncio.get_running_loop().time() - began < PATIENCE / 2
        async with dialled(url):
            pass


async def test_of_too_many_the_oldest_is_dropped(url: str) -> None:
    """64 may be in the handshake, each for ten seconds."""
    port, began = int(url.rpartition(":")[2]), asyncio.get_running_loop().time()
    async with asyncio.timeout(PATIENCE):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(66)]
        assert await idle[0][0].read() == await idle[1][0].read() == b""
        assert asyncio.get_running_loop().time() - began < 10, "not for its slowness"
        assert not any(reader.at_eof() for reader, _ in idle[2:])
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
