"""A coordinator that sends bytes of another body under the digest of the one that a task works on."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from websockets.asyncio.client import ClientConnection

import fedws
from fedws.core.limits import CHUNK_BYTES, DEFAULT_MESSAGE_LIMITS
from fedws.network import body_digest
from fedws.protocol import encoder
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.federation import happens, worker
from tests.helpers.manual_coordinator import closed, rough, welcomed

pytestmark = pytest.mark.usefixtures("nobody_has_a_key")
SIZE = 2 * CHUNK_BYTES + 4096


@dataclass
class Holding:
    """A task that keeps its order until the test opens it, and counts the bytes that changed meanwhile."""

    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    changed: int = -1

    def __call__(self, order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        """Wait, whether or not the node ends the task."""
        before = {name: tensor.clone() for name, tensor in order.tensors.items()}
        self.entered.set()
        self.opened.wait()
        self.changed = sum(int((before[name] != tensor).sum()) for name, tensor in order.tensors.items())
        self.ended.set()
        return workspace.build_result(order, {})


def asked(number: int, body: torch.Tensor) -> encoder.EncodedMessage:
    order = TaskRequest(request_id=str(number), worker="alice", round=1, task="fedavg.fit", tensors={"w": body})
    return encoder.encode_message(order)


def pieces(encoded: encoder.EncodedMessage, digest: str, offset: int = 0) -> Sequence[bytes]:
    return [bytes(piece) for piece in encoded.with_offset(digest, offset, DEFAULT_MESSAGE_LIMITS).fragments()]


async def fragmented(socket: ClientConnection, sent: Sequence[bytes]) -> None:
    await socket.send(iter(sent))


@pytest.mark.parametrize("offset", [CHUNK_BYTES, 2 * CHUNK_BYTES, SIZE - 1])
async def test_bytes_behind_an_offset_do_not_reach_a_task_that_is_running(offset: int) -> None:
    """The body of the digest is whole here, and is worked on; its digest would be checked only at the end."""
    task, honest = Holding(), torch.zeros(SIZE, dtype=torch.uint8)
    first = asked(1, honest)
    digest = body_digest.hash_body({"w": honest}, first.body)
    async with fedws.serve(worker(task=task), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await fragmented(socket, pieces(first, digest))
        await happens(task.entered)
        try:
            await fragmented(socket, pieces(asked(2, torch.ones_like(honest)), digest, offset))
            reason = await closed(socket)
        finally:
            task.opened.set()
        await happens(task.ended)
    assert task.changed == 0
    assert reason == f"cannot resume at byte {offset}: the body is already complete"


async def test_a_whole_body_is_used_again_without_a_byte() -> None:
    """An honest coordinator leaves out all that the node has, or nothing."""
    task, body = Holding(), torch.arange(SIZE).to(torch.uint8)
    task.opened.set()
    encoded = asked(1, body)
    digest = body_digest.hash_body({"w": body}, encoded.body)
    async with fedws.serve(worker(task=task), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        for number, offset in ((1, 0), (2, SIZE), (3, 0)):
            await fragmented(socket, pieces(asked(number, body), digest, offset))
            await happens(task.ended)
            task.ended.clear()
    assert task.changed == 0
