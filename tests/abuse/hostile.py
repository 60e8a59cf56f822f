"""A hostile peer, which sends any websocket frames over a plain connection, one frame or one byte at a time."""

import asyncio
import contextlib
import os
import resource
import struct
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from fedws.protocol import encoder, handshake
from fedws.protocol.decoder import Decoder
from fedws.protocol.messages import Challenge, Hello, Message

PATIENCE = 60.0
"""Timeout in seconds of immediate answers, and of the node's end of a connection."""
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: alice\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15\r\n"
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def data(message: Message) -> bytes:
    """Return the bytes of a message."""
    return b"".join(encoder.encode_message(message).fragments())


def frame(payload: bytes, opcode: int = BINARY, *, fin: bool = True, rsv1: bool = False, claim: int = -1) -> bytes:
    """Return a frame of a client; ``claim`` is the length in its header."""
    first = bytes([fin << 7 | rsv1 << 6 | opcode])
    length = len(payload) if claim < 0 else claim
    mask = os.urandom(4)
    key = int.from_bytes(mask * (len(payload) // 4 + 1), "big") >> 8 * (4 - len(payload) % 4)
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")
    if length < 126:
        return first + bytes([0x80 | length]) + mask + masked
    if length < 2**16:
        return first + b"\xfe" + struct.pack(">H", length) + mask + masked
    return first + b"\xff" + struct.pack(">Q", length) + mask + masked


class Hostile:
    """One connection to a node; its methods do not raise if the node has dropped it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, *pieces: bytes) -> None:
        """Send these bytes, each piece in a packet of its own if the system allows it."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()

    async def upgrade(self, more: bytes = b"") -> bytes:
        """Upgrade to a websocket; return the head of the node's answer, empty if it has dropped the connection."""
        await self.say(UPGRADE + more + b"\r\n")
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def hear(self) -> Message | None:
        """Return the node's next message, or None if it ends the link instead."""
        decoder = Decoder()
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    first, length = await self._reader.readexactly(2)
                    if length >= 126:
                        length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8), "big")
                    payload = await self._reader.readexactly(length)
                    if first & 15 == CLOSE:
                        return None
                    if first & 15 < CLOSE:
                        decoder.feed(payload)
                        if first & 0x80:
                            return decoder.build_message()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def challenged(self, hello: Hello) -> Challenge | None:
        """Upgrade to a websocket, and send a ``hello``."""
        await self.upgrade()
        await self.say(frame(data(hello)))
        answer = await self.hear()
        assert answer is None or isinstance(answer, Challenge), answer
        return answer

    async def dropped(self) -> bytes:
        """Wait until the node has ended the connection; return the bytes it sent."""
        said = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while piece := await self._reader.read(2**16):
                    said = (said + piece)[-(2**16) :]
        return said

    def abort(self) -> None:
        """Abort the connection without a close frame."""
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def hostile(url: str, source: str = "") -> AsyncIterator[Hostile]:
    """Open a connection to a node, from an address of this machine, and drop it at the end."""
    place = urlsplit(url)
    own = (source, 0) if source else None
    reader, writer = await asyncio.open_connection(place.hostname, place.port, local_addr=own)
    peer = Hostile(reader, writer)
    try:
        yield peer
    finally:
        peer.abort()


def hello(run: str = "rough", node: str = "alice") -> Hello:
    """Return the ``hello`` of a peer that claims to have the key."""
    return Hello(run=run, node=node, protocol=encoder.PROTOCOL_VERSION, nonce=handshake.create_nonce())


def many_files(wanted: int = 4096) -> None:
    """Allow this process and its children so many connections, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
