"""Whom the worker in JavaScript serves: who knows the key, one run at a time, order by order."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from fedws.core.errors import LinkLost, LinkRefused
from fedws.network.base import Limits
from fedws.network.transports.ws import WebSocketTransport
from fedws.protocol import handshake
from fedws.protocol.messages import Challenge, Hello, Proof, Refusal, TaskResult
from tests.helpers.javascript_worker import NETWORK, alice, dialled, met, order
from tests.helpers.processes import PATIENCE, Processes, dialling, serving
from tests.helpers.support import TAKEOVER


def test_with_another_key_it_is_refused(processes: Processes, node: str, data: Path) -> None:
    (processes.folder / "other.key").write_text("0F" * 32 + "\n")
    command = alice(processes, node, data, "--key-file", "other.key")
    run = processes.fork("run", *dialling(serving({"alice": command})), "--dataset", "digits", "--run-dir", "run")
    assert run.end() == 1
    assert "alice has a different network key" in run.errors[-1]


@pytest.mark.parametrize("key", ["", "5e" * 31, "5g" * 32])
def test_without_a_key_it_does_not_start(processes: Processes, node: str, data: Path, key: str) -> None:
    processes.environment["FEDWS_KEY"] = key
    command = alice(processes, node, data)
    assert command.end() == 2
    assert command.errors == [
        "worker.mjs: not a network key; expected 64 hexadecimal digits, as printed by 'fedws key show'"
    ]


def test_it_reads_the_user_s_own_key(processes: Processes, node: str, data: Path) -> None:
    """Where fedws has made it."""
    processes.environment.update(HOME=str(processes.folder))
    for name in ("FEDWS_KEY", "XDG_CONFIG_HOME"):
        processes.environment.pop(name, None)
    own = processes.folder / ".config" / "fedws" / "network.key"
    own.parent.mkdir(parents=True)
    own.write_text(NETWORK.hex() + "\n")
    at = serving({"alice": alice(processes, node, data)})["alice"]

    async def call() -> None:
        async with dialled(at):
            pass

    asyncio.run(call())


async def test_callers_that_do_not_know_the_key_are_refused(url: str) -> None:
    channel = await WebSocketTransport().connect(url, Limits())
    with pytest.raises(LinkRefused, match="alice has a different network key"):
        await met(channel, key=bytes(32))
    await channel.close()
    for nonce, proof in (("ab" * 32, "00" * 32), ("", "")):
        channel = await WebSocketTransport().connect(url, Limits())
        await channel.send(Hello(run="run", node="alice", protocol=1, nonce=nonce))
        if nonce:
            assert isinstance(await channel.receive(), Challenge)
            await channel.send(Proof(proof=proof, takeover_key=TAKEOVER))
        answer = await channel.receive()
        assert isinstance(answer, Refusal) and answer.kind == "key", answer
        with pytest.raises(LinkLost):
            await channel.receive()
        await channel.close()


async def test_a_signature_that_was_heard_is_refused(url: str) -> None:
    signatures = [""]
    for _ in range(2):
        channel = await WebSocketTransport().connect(url, Limits())
        hello = Hello(run="run", node="alice", protocol=1, nonce=handshake.create_nonce())
        await channel.send(hello)
        challenge = await channel.receive()
        assert isinstance(challenge, Challenge)
        proof = handshake.create_proof(NETWORK, hello, challenge, TAKEOVER)
        await channel.send(replace(proof, signature=signatures[-1]))
        answer = await channel.receive()
        assert isinstance(answer, Refusal) and answer.kind == "key", answer
        signatures.append(proof.signature)
        await channel.close()


async def test_its_own_proof_is_not_taken_back(url: str) -> None:
    channel = await WebSocketTransport().connect(url, Limits())
    await channel.send(Hello(run="run", node="alice", protocol=1, nonce="ab" * 32))
    challenge = await channel.receive()
    assert isinstance(challenge, Challenge)
    await channel.send(Proof(proof=challenge.proof, takeover_key=TAKEOVER))
    answer = await channel.receive()
    assert isinstance(answer, Refusal) and answer.kind == "key", answer
    await channel.close()


async def test_who_else_is_refused(url: str) -> None:
    async with dialled(url, "0123456789abcdef"):
        channel = await WebSocketTransport().connect(url, Limits())
        answer = await met(channel, "another")
        assert isinstance(answer, Refusal) and answer.kind == "busy"
        assert answer.reason.startswith("alice is busy with run 01234567 since 20")
        await channel.close()
        channel = await WebSocketTransport().connect(url, Limits())
        answer = await met(channel, "0123456789abcdef", takeover="00" * 32)
        assert isinstance(answer, Refusal) and answer.kind == "busy", "a member that has only heard of the run"
        await channel.close()
    channel = await WebSocketTransport().connect(url, Limits())
    answer = await met(channel, node="bob")
    assert isinstance(answer, Refusal) and (answer.kind, answer.reason) == ("node", "this is alice, not bob")
    await channel.close()
    channel = await WebSocketTransport().connect(url, Limits())
    await channel.send(Hello(run="run", node="alice", protocol=2, nonce="ab" * 32))
    refusal = await channel.receive()
    assert isinstance(refusal, Refusal) and refusal.kind == "protocol"
    await channel.close()


async def test_the_same_run_takes_over_and_the_work_stops(url: str) -> None:
    async with dialled(url) as older:
        await older.send(order(max_local_batches=10**6, epochs=10**6))
        async with dialled(url) as newer:
            with pytest.raises(LinkLost, match="taken over by the same run"):
                await older.receive()
            await newer.send(order())
            assert isinstance(await newer.receive(), TaskResult)


async def test_it_pings_while_it_trains(processes: Processes, node: str, data: Path) -> None:
    """A coordinator that never pings, whom nothing but the worker's own pings can tell that it lives."""
    at = serving({"alice": await asyncio.to_thread(alice, processes, node, data, "--peer-timeout", "4.5")})["alice"]
    async with dialled(at, limits=Limits(peer_timeout=2.4, ping_interval=PATIENCE)) as channel:
        await channel.send(order(max_local_batches=10**6, epochs=10**6))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.receive(), 3.5)


async def test_orders_wait_for_their_turn(url: str) -> None:
    async with dialled(url) as channel:
        for number in range(6):
            await channel.send(order(request_id=str(number), epochs=1))
        answers = [await channel.receive() for _ in range(6)]
        assert [answer.request_id for answer in answers if isinstance(answer, TaskResult)] == [*"012345"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({}, "duplicate request '1/alice'"), ({"worker": "bob"}, "request is for bob, not for alice")],
)
async def test_wrong_orders_close_the_link(url: str, changed: dict[str, str], reason: str) -> None:
    async with dialled(url) as channel:
        await channel.send(order(epochs=1))
        assert isinstance(await channel.receive(), TaskResult)
        await channel.send(order(**changed))
        with pytest.raises(LinkLost, match=reason):
            await channel.receive()


async def test_a_web_page_is_refused(url: str) -> None:
    for origin in ("https://example.org", "null"):
        with pytest.raises(InvalidStatus) as found:
            await connect(url, origin=Origin(origin), proxy=None)
        assert found.value.response.status_code == 403
    async with dialled(url):
        pass
