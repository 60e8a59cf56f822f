"""Members whose links a node closes, and which do not close them; their number is bounded."""

import asyncio
import contextlib

import pytest

from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.network.base import Limits
from fedws.network.websocket.incoming_connection import IncomingConnection
from fedws.node.server import serve
from fedws.protocol.messages import Hello, Message, Refusal, Welcome
from fedws.security.credentials import INSECURE
from tests.abuse.hostile import Hostile, data, frame, hostile, many_files
from tests.helpers.federation import worker

LIMITS = Limits(peer_timeout=6000.0)
"""Limits under which a link lives longer than a test, unless it is ended for another reason."""
MORE = MAX_PENDING_CONNECTIONS + 30
"""Number of links that are closed, one after the other."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> set[IncomingConnection]:
    """Return the connections of the node that are not lost."""
    found: set[IncomingConnection] = set()
    begin, end = IncomingConnection.connection_made, IncomingConnection.connection_lost

    def connection_made(self: IncomingConnection, transport: asyncio.BaseTransport) -> None:
        found.add(self)
        begin(self, transport)

    def connection_lost(self: IncomingConnection, exc: Exception | None) -> None:
        found.discard(self)
        end(self, exc)

    monkeypatch.setattr(IncomingConnection, "connection_made", connection_made)
    monkeypatch.setattr(IncomingConnection, "connection_lost", connection_lost)
    return found


async def called(peer: Hostile, run: str) -> Message | None:
    """Call alice; return her answer."""
    await peer.upgrade()
    await peer.say(frame(data(Hello(run=run, node="alice", protocol=1))))
    return await peer.hear()


async def test_refused_members_that_do_not_close_their_links_are_bounded(made: set[IncomingConnection]) -> None:
    many_files()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(worker(), "ws://localhost:0", LIMITS, INSECURE))
        holder = await stack.enter_async_context(hostile(url))
        assert isinstance(await called(holder, "holder"), Welcome)
        for turn in range(MORE):
            peer = await stack.enter_async_context(hostile(url))
            assert isinstance(await called(peer, f"run {turn}"), Refusal)
            assert await peer.hear() is None
            assert len(made) <= MAX_PENDING_CONNECTIONS + 2, (
                "the holder, those that are being closed, and one that is just dropped"
            )


async def test_members_that_end_their_runs_and_do_not_close_their_links_are_bounded(
    made: set[IncomingConnection],
) -> None:
    many_files()
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(worker(), "ws://localhost:0", LIMITS, INSECURE))
        for turn in range(MORE):
            peer = await stack.enter_async_context(hostile(url))
            while not isinstance(await called(peer, f"run {turn}"), Welcome):  # the run before is just ending
                peer = await stack.enter_async_context(hostile(url))
            await peer.say(frame(b"no message of fedws"))
            assert await peer.hear() is None
            assert len(made) <= MAX_PENDING_CONNECTIONS + 2, (
                "those that are being closed, this one, and one that is just dropped"
            )
