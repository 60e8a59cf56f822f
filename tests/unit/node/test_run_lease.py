"""Turns: a run that is refused does not take the place of the run that the node works for."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fedws.core.errors import LinkLost, LinkRefused
from fedws.network.base import Limits
from fedws.node.run_lease import IDLE_PEER_TIMEOUTS, LeaseManager
from fedws.protocol.run_claim import RunClaim
from tests.helpers.virtual_time import virtual

SILENCE = 60.0
HOLDER, OTHER = RunClaim("a" * 16, "lab", "1" * 64), RunClaim("b" * 16, "lab", "2" * 64)


@virtual
async def test_a_run_that_does_not_get_the_node_leaves_it_to_the_run_before() -> None:
    """The idle run gives way, but its work outlasts the other run's patience; then both call again."""
    turns = LeaseManager("alice", Limits(peer_timeout=SILENCE))
    channel: Any = SimpleNamespace(bytes_received=0, is_receiving=False)
    async with turns.acquire(channel, HOLDER) as turn:
        await asyncio.sleep(IDLE_PEER_TIMEOUTS * SILENCE + 1)
        with pytest.raises(LinkRefused, match="alice is busy with run aaaaaaaa since"):
            async with turns.acquire(channel, OTHER):
                pass
        assert turn.ended.is_set(), "it must end"
    again = asyncio.create_task(_have(turns, channel, HOLDER))
    assert await again, "the run before is let in"
    assert await _have(turns, channel, OTHER)


async def _have(turns: LeaseManager, channel: Any, claim: RunClaim) -> bool:
    async with turns.acquire(channel, claim):
        return True


@pytest.mark.parametrize("links", [1, 2])
def test_the_run_before_may_call_while_its_work_ends(links: int) -> None:
    """Its new link waits for its own older one, and is not refused for the other run, however many links that made."""

    @virtual
    async def calls() -> None:
        turns = LeaseManager("alice", Limits(peer_timeout=SILENCE))
        channel: Any = SimpleNamespace(bytes_received=0, is_receiving=False)
        async with turns.acquire(channel, HOLDER):
            await asyncio.sleep(IDLE_PEER_TIMEOUTS * SILENCE + 1)
            others = [_have(turns, channel, OTHER) for _ in range(links)]
            found = await asyncio.gather(*others, return_exceptions=True)
            assert all(isinstance(each, LinkLost | LinkRefused) for each in found)
            waiting = asyncio.create_task(_have(turns, channel, HOLDER))
            await asyncio.sleep(1)
        assert await waiting

    calls()
