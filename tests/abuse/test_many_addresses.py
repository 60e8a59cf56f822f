"""Strangers with an address each, over real sockets: they fill the limit of callers, but slow members get through."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

import pytest

import fedws
from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.protocol import handshake
from fedws.protocol.messages import Challenge, Hello, Message, Welcome
from tests.abuse.hostile import Hostile, data, frame, hello, hostile, many_files
from tests.helpers.federation import registered, worker
from tests.helpers.keyed_runs import KEY, SECRET
from tests.helpers.support import require

SLOW = 10
"""Number of slow handshakes, one after the other."""
BETWEEN = MAX_PENDING_CONNECTIONS // 2 + 4
"""Number of strangers that connect between two steps of a handshake."""
pytestmark = pytest.mark.usefixtures("points")


@pytest.fixture
def points() -> object:
    with registered():
        yield


class Strangers:
    """Strangers that connect one after the other, each from an address of its own, and stay until they are dropped."""

    def __init__(self, url: str, act: Callable[[Hostile], Awaitable[object]]) -> None:
        self._url = url
        self._act = act
        self._stack = contextlib.AsyncExitStack()
        self._waiting: set[asyncio.Task[bytes]] = set()
        self._came = 0

    async def __aenter__(self) -> "Strangers":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self._stack.aclose()

    async def come(self, count: int) -> None:
        """Let so many more connect; return when as many callers wait as before, even if one had to leave."""
        for _ in range(count):
            self._came += 1
            source = f"127.1.{self._came >> 8}.{self._came & 255}"
            stranger = await self._stack.enter_async_context(hostile(self._url, source))
            await self._act(stranger)
            self._waiting.add(asyncio.create_task(stranger.dropped()))
        while (
            len(self._waiting) > MAX_PENDING_CONNECTIONS
        ):  # one more than fit beside a member, which may have been dropped instead
            _, self._waiting = await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)


async def silent(stranger: Hostile) -> None:
    """Send nothing."""


async def answer(peer: Hostile, message: Hello | Message) -> Message | None:
    await peer.say(frame(data(message)))
    return await peer.hear()


async def test_slow_callers_get_through_a_flood_from_many_addresses() -> None:
    """All get through if the strangers send nothing: a caller that has sent more than half of the others stays."""
    require(sys.platform == "linux", "only here all of 127.0.0.0/8 is this machine")
    many_files()
    through = 0
    async with fedws.serve(worker(), "ws://127.0.0.1:0", credentials=KEY) as url, Strangers(url, silent) as strangers:
        await strangers.come(MAX_PENDING_CONNECTIONS)
        for _ in range(SLOW):
            async with hostile(url) as member:
                called = hello()
                await member.upgrade()
                await strangers.come(BETWEEN)
                challenge = await answer(member, called)
                await strangers.come(BETWEEN)
                if isinstance(challenge, Challenge):
                    proof = handshake.create_proof(SECRET, called, challenge, "ab" * 32)
                    through += isinstance(await answer(member, proof), Welcome)
    print(f"{through} of {SLOW} slow handshakes got through")
    assert through == SLOW
