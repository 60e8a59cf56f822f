"""A coordinator by hand, which connects to a node and sends any message of the protocol."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import fedws
from fedws.protocol import encoder
from fedws.protocol.decoder import Decoder
from fedws.protocol.messages import Hello, Message, TaskRequest, Welcome
from fedws.security.credentials import Credentials
from tests.helpers.federation import PATIENCE, settings

HELLO = Hello(run="rough", node="alice", protocol=encoder.PROTOCOL_VERSION)


def data(message: Message) -> bytes:
    """Return the bytes of a message."""
    return b"".join(encoder.encode_message(message).fragments())


def order(**changes: Any) -> TaskRequest:
    """Return a request that alice carries out."""
    model = torch.nn.Linear(4, 10)
    tensors = {f"dense.{name}": value.detach() for name, value in model.named_parameters()}
    training = fedws.TrainSettings(model="points_linear", dataset="points").model_dump()
    given: dict[str, Any] = {
        "request_id": "1/alice",
        "worker": "alice",
        "round": 1,
        "task": "fedavg.fit",
        "settings": training,
    }
    given["tensors"] = {**tensors, "calls": torch.zeros((), dtype=torch.int64)}
    return TaskRequest(**{**given, **changes})


@contextlib.asynccontextmanager
async def rough(url: str) -> AsyncIterator[ClientConnection]:
    """Open a websocket to a node, for any bytes."""
    async with connect(url, compression=None, proxy=None, close_timeout=PATIENCE) as socket:
        yield socket


async def closed(socket: ClientConnection) -> str:
    """Wait until the node closes the link; return the reason."""
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed:
            return socket.close_reason or ""


async def answer(socket: ClientConnection) -> Message:
    """Return the node's next message."""
    decoder = Decoder()
    async with asyncio.timeout(PATIENCE):
        decoder.feed(await socket.recv(decode=False))
    return decoder.build_message()


async def welcomed(socket: ClientConnection) -> None:
    """Begin a run."""
    await socket.send(data(HELLO))
    assert isinstance(await answer(socket), Welcome)


async def honest(url: str, folder: Path, security: Credentials | None = None) -> None:
    """Check that a run over alice succeeds."""
    result = await fedws.run(run_dir=folder, credentials=security, **settings({"alice": url}, rounds=1))
    assert [record["num_results"] for record in result.metrics] == [1]
