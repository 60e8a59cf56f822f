"""The worker in JavaScript as a process, and a coordinator's handshake with it by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fedws.network.base import Channel, Limits
from fedws.network.transports.ws import WebSocketTransport
from fedws.protocol import handshake
from fedws.protocol.messages import Challenge, Hello, Refusal, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.training.model_building import build_model
from tests.helpers.processes import PATIENCE, Command, Processes
from tests.helpers.support import REPOSITORY, TAKEOVER

FOLDER = REPOSITORY / "examples" / "other_language"
NETWORK = bytes.fromhex("5e" * 32)
"""Network key of FEDWS_KEY while tests run."""
HELD = (0, 1, 2, 3, 4)
"""Labels that the worker in JavaScript holds."""


def alice(processes: Processes, node: str, data: Path, *flags: str) -> Command:
    """Start the worker as a process."""
    return processes.execute(node, str(FOLDER / "worker.mjs"), "--id", "alice", "--data", str(data), *flags)


async def met(
    channel: Channel, run: str = "run", key: bytes = NETWORK, node: str = "alice", takeover: str = TAKEOVER
) -> Welcome | Refusal:
    """Return the end of the handshake as the coordinator makes it; the same run may take over. Raise Refused."""
    hello = Hello(run=run, node=node, protocol=1, nonce=handshake.create_nonce())
    await channel.send(hello)
    challenge = await channel.receive()
    assert isinstance(challenge, Challenge)
    await channel.send(handshake.create_proof(key, hello, challenge, takeover))
    answer = await channel.receive()
    assert isinstance(answer, Welcome | Refusal)
    return answer


@contextlib.asynccontextmanager
async def dialled(url: str, run: str = "run", limits: Limits = Limits()) -> AsyncIterator[Channel]:  # noqa: B008
    """Open a link that has received the ``welcome``."""
    async with asyncio.timeout(PATIENCE):
        channel = await WebSocketTransport().connect(url, limits)
        try:
            welcome = await met(channel, run)
            assert isinstance(welcome, Welcome), welcome
            channel.mark_authenticated()
            yield channel
        finally:
            await channel.close()


async def asked(url: str, order: TaskRequest) -> TaskResult | TaskFailure:
    """Return the answer to a request."""
    async with dialled(url) as channel:
        await channel.send(order)
        answer = await channel.receive()
    assert isinstance(answer, TaskResult | TaskFailure)
    return answer


def order(**changed: Any) -> TaskRequest:
    """Return a request to train the linear model on all samples at once, three times, with changed fields."""
    settings = {
        "model": "linear",
        "dataset": "digits",
        "lr": 0.05,
        "batch_size": 1000,
        "max_local_batches": 9,
        "epochs": 3,
    }
    fields = {key: changed.pop(key) for key in [*changed] if key in TaskRequest.__dataclass_fields__}
    base: dict[str, Any] = {
        "request_id": "1/alice",
        "worker": "alice",
        "round": 1,
        "task": "fedavg.fit",
        "seed": 2**64 - 7,
    }
    tensors = build_model("linear", 1).state_dict()
    return TaskRequest(**{**base, "settings": {**settings, **changed}, "tensors": tensors, **fields})
