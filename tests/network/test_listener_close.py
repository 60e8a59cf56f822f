"""A listener that closes while callers arrive."""

import asyncio
import gc
import socket
import warnings

import pytest

from fedws.network.base import Channel, Limits
from fedws.network.transports.ws import WebSocketTransport


async def serve_once(steps: int) -> None:
    """Close a listener a few steps of the loop after a caller has connected."""

    async def handle(channel: Channel) -> None:
        pytest.fail("no caller has sent anything")

    with socket.socket() as caller:
        async with WebSocketTransport().serve("ws://127.0.0.1:0", handle, Limits()) as url:
            caller.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            for _ in range(steps):
                await asyncio.sleep(0)


def test_a_caller_that_is_accepted_while_the_listener_closes_leaves_no_socket() -> None:
    """asyncio up to Python 3.12 forgets the socket of a caller that it accepted in the very step of the close."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for steps in range(6):
            asyncio.run(serve_once(steps))
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
