"""Callers who do not know the key, or only heard of it: a node refuses them, and hears out no more than it must."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

import fedws
from fedws.core.errors import LinkError, LinkLost
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES
from fedws.protocol import encoder, handshake
from fedws.protocol.messages import Challenge, Hello, Message, Proof, Refusal, TaskRequest, Welcome
from tests.helpers.federation import PATIENCE, Gate, happens, settings, worker
from tests.helpers.keyed_runs import KEY, SECRET, WELCOME, asked, dialled
from tests.helpers.manual_coordinator import HELLO
from tests.helpers.support import TAKEOVER


def proved(key: bytes, hello: Hello, challenge: Challenge) -> Proof:
    own = handshake.compute_proof(key, "coordinator", hello, challenge.node, challenge.nonce, TAKEOVER)
    return Proof(proof=own, takeover_key=TAKEOVER)


def wrong(hello: Hello, challenge: Challenge) -> Message:
    other = replace(hello, run="another")
    return proved(SECRET, other, challenge)


def foreign(hello: Hello, challenge: Challenge) -> Message:
    return proved(bytes(32), hello, challenge)


def reflected(hello: Hello, challenge: Challenge) -> Message:
    return Proof(proof=challenge.proof, takeover_key=TAKEOVER)


@pytest.mark.parametrize("answer", [wrong, foreign, reflected])
async def test_a_wrong_proof_is_refused_with_what_to_do(answer: Callable[[Hello, Challenge], Message]) -> None:
    hello = replace(HELLO, nonce=handshake.create_nonce())
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url, dialled(url) as channel:
        challenge = await asked(channel, hello)
        assert isinstance(challenge, Challenge)
        await channel.send(answer(hello, challenge))
        refusal = await channel.receive()
        assert isinstance(refusal, Refusal)
        assert (refusal.kind, refusal.reason) == (
            "key",
            f"the coordinator has a different network key than alice; {handshake.KEY_MISMATCH_REMEDY}",
        )
        with pytest.raises(LinkLost):
            await channel.receive()


async def test_a_handshake_that_was_recorded_opens_nothing_later() -> None:
    hello = replace(HELLO, nonce=handshake.create_nonce())
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        async with dialled(url) as channel:
            challenge = await asked(channel, hello)
            assert isinstance(challenge, Challenge)
            recorded = handshake.create_proof(SECRET, hello, challenge, TAKEOVER)
            await channel.send(recorded)
            assert isinstance(await channel.receive(), Welcome)
        async with dialled(url) as channel:
            again = await asked(channel, hello)
            assert isinstance(again, Challenge) and again.nonce != challenge.nonce
            await channel.send(recorded)
            assert isinstance(await channel.receive(), Refusal)


@pytest.mark.parametrize(
    "instead",
    [
        TaskRequest(request_id="1", worker="alice", round=1, task="fedavg.fit"),
        HELLO,
        Challenge(node="alice", nonce="00" * 32, proof="00" * 32),
        WELCOME,
    ],
)
async def test_whatever_comes_where_a_proof_was_due_ends_the_link(instead: Message) -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url, dialled(url) as channel:
        await asked(channel, replace(HELLO, nonce=handshake.create_nonce()))
        await channel.send(instead)
        with pytest.raises(LinkError, match="expected 'proof'"):
            await channel.receive()


async def test_an_order_before_the_proof_is_not_carried_out() -> None:
    """Sent ahead, so that it lies there should the node forget to ask."""
    gate = Gate()
    async with fedws.serve(worker(task=gate), "ws://localhost:0", credentials=KEY) as url, dialled(url) as channel:
        await channel.send(replace(HELLO, nonce=handshake.create_nonce()))
        await channel.send(TaskRequest(request_id="1", worker="alice", round=1, task="fedavg.fit"))
        assert isinstance(await channel.receive(), Challenge)
        with pytest.raises(LinkError, match="unexpected message 'task_request', expected 'proof'"):
            await channel.receive()
        assert not gate.entered.is_set()


async def test_a_stranger_hears_no_more_than_the_nodes_id() -> None:
    """Neither what it holds nor which run it serves."""
    gate = Gate()
    async with fedws.serve(worker(task=gate), "ws://localhost:0", credentials=KEY) as url:
        for hello in (HELLO, replace(HELLO, node="bob"), replace(HELLO, protocol=99, nonce="00" * 32)):
            async with dialled(url) as channel:
                refusal = await asked(channel, hello)
                assert isinstance(refusal, Refusal)
                assert refusal.kind in ("key", "protocol")
                assert "points" not in refusal.reason and "120" not in refusal.reason


async def test_a_stranger_cannot_send_a_large_message() -> None:
    """Nothing above the bound of a handshake is taken before the proof; a member may send it after."""
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        for before in (HELLO, replace(HELLO, nonce=handshake.create_nonce())):
            async with dialled(url) as channel:
                await asked(channel, before)
                with pytest.raises(LinkError):
                    await channel.send(replace(HELLO, run="x" * 2 * MAX_HANDSHAKE_MESSAGE_BYTES))
                    while True:
                        await channel.receive()


@pytest.mark.parametrize("opcode", [Opcode.PONG, Opcode.PING, Opcode.CONT])
async def test_a_stranger_cannot_send_frame_after_frame(opcode: Opcode) -> None:
    """Each is small, but costs time."""
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        async with connect(url, compression=None, proxy=None, ping_interval=None) as socket:
            first = [Frame(Opcode.BINARY, encoder.MAGIC, fin=False)] if opcode is Opcode.CONT else []
            frames = first + [Frame(opcode, b"", fin=opcode is not Opcode.CONT)] * 1000
            socket.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
            async with asyncio.timeout(PATIENCE):
                await socket.wait_closed()
            assert socket.close_code == 1006, "without a word"
        async with dialled(url) as channel:
            assert isinstance(await asked(channel, replace(HELLO, nonce=handshake.create_nonce())), Challenge)


async def test_a_stranger_cannot_send_many_bytes_of_any_kind() -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\n" + 1000 * (b"X-Long: " + 1000 * b"x" + b"\r\n"))
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b"", "it is gone before it has said how it goes on"
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_run_that_is_served_is_not_disturbed_by_strangers(tmp_path: Path) -> None:
    """Who does not know the key cannot take it over either, though they may know its id."""
    gate = Gate(held=(2,))
    async with fedws.serve(worker(task=gate), "ws://localhost:0", credentials=KEY) as url:
        folder = tmp_path / "run"
        running = asyncio.create_task(fedws.run(run_dir=folder, credentials=KEY, **settings({"alice": url})))
        await happens(gate.entered)
        name = (folder / "run.json").read_text().partition('"id": "')[2].partition('"')[0]
        for hello in (HELLO, *(replace(HELLO, run=name, nonce=nonce) for nonce in ("", handshake.create_nonce()))):
            async with dialled(url) as channel:
                answer = await asked(channel, hello)
                if isinstance(answer, Challenge):
                    await channel.send(foreign(hello, answer))
                    answer = await channel.receive()
                assert isinstance(answer, Refusal) and answer.kind == "key"
        gate.opened.set()
        result = await running
        assert [record["num_results"] for record in result.metrics if "num_results" in record] == [1, 1]
        assert not gate.stopped.is_set()
