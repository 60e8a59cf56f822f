"""Callers that talk nonsense: a node says so, lets them go, and serves the next one."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

import fedws
from fedws.network.base import Limits
from fedws.protocol import encoder
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.header import ALIGNMENT_BYTES
from fedws.protocol.messages import TaskResult, Welcome
from tests.helpers.federation import PATIENCE, worker
from tests.helpers.manual_coordinator import HELLO, closed, data, honest, order, rough, welcomed

pytestmark = pytest.mark.usefixtures("nobody_has_a_key")


def headed(fields: dict[str, Any], version: int = encoder.PROTOCOL_VERSION) -> bytes:
    """A message of this header and no body."""
    header: bytes = msgpack.packb(fields)
    head = encoder.MAGIC + struct.pack("<II", version, len(header)) + header
    return head + bytes(-len(head) % ALIGNMENT_BYTES)


def claim(size: int) -> dict[str, Any]:
    """The header of a hello that says it has one tensor of so many bytes."""
    table = [{"name": "w", "dtype": "uint8", "shape": [size], "length": size}]
    return {"type": "hello", "fields": {}, "tensors": table, "transfer": "", "digest": None, "offset": 0}


STRANGE: dict[str, tuple[str | bytes, str]] = {
    "text": ("hello", "unexpected text frame; messages are binary"),
    "random bytes": (os.urandom(70), "not a fedws message"),
    "nothing": (b"", "message is shorter than its declared length"),
    "wrong magic": (b"FDWX" + data(HELLO)[4:], "not a fedws message"),
    "another version": (headed(claim(0), 2), "unsupported protocol version 2, expected 1"),
    "no msgpack": (encoder.MAGIC + struct.pack("<II", 1, 52) + b"\xc1" * 52, "header is not msgpack"),
    "huge header": (encoder.MAGIC + struct.pack("<II", 1, 2**31) + bytes(52), "header of 2147483648 bytes exceeds the"),
    "huge body": (headed(claim(2**40)), "message of 1099511627904 bytes exceeds the limit of 65536"),
    "more than said": (data(HELLO) + bytes(64), "body exceeds its declared length of 0 bytes"),
    "less than said": (headed(claim(64)), "message is shorter than its declared length"),
    "half": (data(HELLO)[:20], "message is shorter than its declared length"),
    "no such type": (headed({**claim(0), "type": "shell"}), "unknown message type 'shell'"),
    "wrong field": (headed({**claim(0), "fields": {"run": 1}, "tensors": []}), "hello: run"),
    "order first": (data(order()), "expected 'hello'"),
    "welcome first": (
        data(Welcome(node="alice", role="worker", dataset="points", num_examples=1)),
        "expected 'hello'",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_who_begins_with_nonsense_is_told_so(name: str) -> None:
    sent, reason = STRANGE[name]
    async with fedws.serve(worker(), "ws://localhost:0") as url:
        async with rough(url) as socket:
            await socket.send(sent)
            assert reason in await closed(socket)
            assert socket.close_code == CloseCode.MESSAGE_REJECTED
        async with rough(url) as socket:
            await welcomed(socket)


AFTER_HELLO: dict[str, tuple[str | bytes, str]] = {
    "text": ("go", "unexpected text frame; messages are binary"),
    "random bytes": (os.urandom(3000), "not a fedws message"),
    "hello again": (data(HELLO), "expected 'task_request'"),
    "order for another": (data(order(worker="bob")), "request is for bob, not for alice"),
    "a report": (data(TaskResult(request_id="1", worker="alice", round=1, num_examples=1)), "expected 'task_request'"),
    "huge body": (headed({**claim(2**40), "type": "task_request"}), "exceeds the limit of 1073741824"),
}


@pytest.mark.parametrize("name", AFTER_HELLO)
async def test_who_goes_on_with_nonsense_is_told_so(name: str) -> None:
    sent, reason = AFTER_HELLO[name]
    async with fedws.serve(worker(), "ws://localhost:0") as url:
        async with rough(url) as socket:
            await welcomed(socket)
            await socket.send(sent)
            assert reason in await closed(socket)
        async with rough(url) as socket:
            await welcomed(socket)


async def test_a_worker_outlives_all_of_it_and_then_runs(tmp_path: Path) -> None:
    """On one worker: nonsense, half messages, frames that are too large, plain TCP; then an honest run."""
    half_sent = asyncio.Event()

    async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        half_sent.set()
        await asyncio.Event().wait()

    async with fedws.serve(worker(), "ws://localhost:0", Limits(max_message_bytes=2**22)) as url:
        for sent, _ in STRANGE.values():
            async with rough(url) as socket:
                await socket.send(sent)
                await closed(socket)
        async with rough(url) as socket:
            await socket.send(data(HELLO)[:4])
        async with rough(url) as socket:  # one frame of more than a fragment
            await welcomed(socket)
            await socket.send(encoder.MAGIC + bytes(2**21))
            await closed(socket)
            assert socket.close_code == 1009
        async with rough(url) as socket:  # the first half of an order, and gone without a word
            await welcomed(socket)
            half = data(order())
            sending = asyncio.create_task(socket.send(pieces(half[:100], half[100:150])))
            await asyncio.wait_for(half_sent.wait(), PATIENCE)
            socket.transport.abort()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(100))
        async with asyncio.timeout(PATIENCE):
            await reader.read()
        writer.close()
        await writer.wait_closed()
        await honest(url, tmp_path / "run")
