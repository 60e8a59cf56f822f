"""Orders that come before the answer to the last: a caller that leaves does not keep a node by them."""

import asyncio

import pytest

from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.server import serve
from fedws.protocol.messages import Hello, Message, Refusal, TaskRequest, Welcome
from fedws.security.credentials import INSECURE
from tests.helpers.federation import PATIENCE, Gate, address, happens, worker

LIMITS = Limits()


async def called(url: str, run: str) -> tuple[Channel, Message]:
    """Call alice; return the link and what she answers."""
    channel = await find_transport(url).connect(url, LIMITS)
    await channel.send(Hello(run=run, node="alice", protocol=1))
    return channel, await channel.receive()


@pytest.mark.parametrize("scheme", ["memory", "ws"])
@pytest.mark.parametrize("ahead", [0, 2, 3])
async def test_a_caller_that_leaves_frees_the_node_however_many_orders_wait(scheme: str, ahead: int) -> None:
    """A node reads two ahead, and then must not train to the end for a link that is lost."""
    task = Gate()
    served = serve(worker(task=task), address(scheme, "alice"), LIMITS, INSECURE)
    async with served as url, asyncio.timeout(PATIENCE):
        channel, answer = await called(url, "leaves")
        assert isinstance(answer, Welcome)
        for turn in range(1 + ahead):
            await channel.send(TaskRequest(request_id=f"{turn}/alice", worker="alice", round=1, task="fedavg.fit"))
        await happens(task.entered)
        await channel.close()
        answer = Refusal(kind="busy", reason="")
        while isinstance(answer, Refusal):
            channel, answer = await called(url, "other")
            await channel.close()
        assert isinstance(answer, Welcome) and task.stopped.is_set()
