"""Runs and callers with and without the network key, over a node called alice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import fedws
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.protocol.messages import Hello, Message, Welcome
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from tests.helpers.federation import PATIENCE, settings

KEY, OTHER = (Credentials(NetworkKey(bytes([number]) * 32, "a test")) for number in (1, 2))
SECRET = bytes([1]) * 32
WELCOME = Welcome(node="alice", role="worker", dataset="points", num_examples=120)


@contextlib.asynccontextmanager
async def dialled(url: str) -> AsyncIterator[Channel]:
    """Open a link to a node, on which the test sends any message."""
    channel = await find_transport(url).connect(url, Limits())
    try:
        async with asyncio.timeout(PATIENCE):
            yield channel
    finally:
        await channel.close()


async def asked(channel: Channel, hello: Hello) -> Message:
    """Return the answer to a ``hello``."""
    await channel.send(hello)
    return await channel.receive()


async def failed(url: str, folder: Path, security: Credentials) -> str:
    """Check that a run over alice ends at the first contact and leaves no files; return its error."""
    with pytest.raises(fedws.RunFailed) as error:
        async with asyncio.timeout(PATIENCE):
            await fedws.run(
                run_dir=folder / "never", credentials=security, **settings({"alice": url}, wait_for_workers="forever")
            )
    assert not (folder / "never").exists()
    text = str(error.value)
    assert text.startswith(f"alice at {url}: ") and "\n" not in text
    return text.removeprefix(f"alice at {url}: ")
