"""A web page that a browser shows near a node: its requests for a websocket are refused, whatever key the node has."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

import fedws
from fedws.network.base import Channel, Limits
from fedws.network.transports.ws import WebSocketTransport
from fedws.protocol.messages import Welcome
from fedws.security.credentials import INSECURE, Credentials
from tests.helpers.federation import worker
from tests.helpers.keyed_runs import KEY
from tests.helpers.manual_coordinator import HELLO, answer, data, honest

PAGE = "requests with an Origin header are rejected: web pages cannot connect to a fedws node\n"


async def refused(url: str, origin: str, more: Headers | None = None) -> str:
    """Ask for a websocket as a page of ``origin`` does; return the body of the answer."""
    with pytest.raises(InvalidStatus) as found:
        await connect(url, origin=Origin(origin), additional_headers=more, proxy=None)
    assert found.value.response.status_code == 403
    return found.value.response.body.decode()


@asynccontextmanager
async def meeting(security: Credentials) -> AsyncIterator[str]:
    """A coordinator that listens, as far as websockets go."""

    async def hold(channel: Channel) -> None:
        await channel.wait_closed()

    async with WebSocketTransport().serve("ws://localhost:0", hold, Limits(), security.tls) as url:
        yield url


def node(security: Credentials) -> AbstractAsyncContextManager[str]:
    return fedws.serve(worker(), "ws://localhost:0", credentials=security)


@pytest.mark.parametrize("security", [KEY, INSECURE], ids=["key", "insecure"])
@pytest.mark.parametrize("served", [node, meeting])
@pytest.mark.parametrize("origin", ["https://example.org", "null", "", "http://localhost:8777"])
async def test_a_request_with_an_origin_is_refused(
    served: Callable[[Credentials], AbstractAsyncContextManager[str]], security: Credentials, origin: str
) -> None:
    """Whichever it is: one of a file is ``null``."""
    async with served(security) as url:
        assert await refused(url, origin) == PAGE


async def test_two_origins_are_refused() -> None:
    async with node(INSECURE) as url:
        assert await refused(url, "https://example.org", Headers([("Origin", "null")])) == PAGE


async def test_pages_fill_no_log_and_programs_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedws")
    async with node(INSECURE) as url:
        for _ in range(5):
            await refused(url, "https://example.org")
        lines = [line for line in caplog.messages if "web page" in line]
        assert len(lines) == 1
        assert lines[0].endswith("rejected a web page at 127.0.0.1: its request has an Origin header")
        async with connect(url, proxy=None, compression=None) as socket:
            await socket.send(data(HELLO))
            assert isinstance(await answer(socket), Welcome)
        await honest(url, tmp_path / "run", INSECURE)
