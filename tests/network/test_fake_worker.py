"""Who poses as a worker, or stands in the middle, without the key: the coordinator refuses and sends no model."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core.errors import LinkError
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.protocol import handshake
from fedws.protocol.messages import Challenge, Hello, Message, Refusal
from tests.helpers.federation import worker
from tests.helpers.keyed_runs import KEY, WELCOME, asked, dialled, failed

Peer = Callable[[Channel], Any]


@contextlib.asynccontextmanager
async def fake(answers: Peer) -> AsyncIterator[str]:
    """Somebody at alice's address who does not know the key, and sees all that is said to them."""

    async def handle(channel: Channel) -> None:
        with contextlib.suppress(LinkError):
            await answers(channel)
            while True:
                await channel.receive()

    async with find_transport("ws://localhost:0").serve("ws://localhost:0", handle, Limits()) as url:
        yield url


async def welcomes(channel: Channel) -> None:
    await channel.receive()
    await channel.send(WELCOME)


async def invents(channel: Channel) -> None:
    await channel.receive()
    await channel.send(Challenge(node="alice", nonce=handshake.create_nonce(), proof=handshake.create_nonce()))


async def reflects(channel: Channel) -> None:
    hello = await channel.receive()
    assert isinstance(hello, Hello)
    await channel.send(Challenge(node="alice", nonce=hello.nonce, proof=hello.nonce))


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (welcomes, "it does not authenticate (--insecure)"),
        (invents, "alice has a different network key"),
        (reflects, "alice has a different network key"),
    ],
)
async def test_a_fake_worker_is_not_accepted_and_gets_no_model(answers: Peer, text: str, tmp_path: Path) -> None:
    heard: list[Message] = []

    async def hearing(channel: Channel) -> None:
        receive = channel.receive

        async def heard_too() -> Message:
            heard.append(await receive())
            return heard[-1]

        channel.receive = heard_too  # type: ignore[method-assign]
        await answers(channel)
        while True:
            await channel.receive()

    async with fake(hearing) as url:
        assert text in await failed(url, tmp_path, KEY)
    assert [type(message) for message in heard] == [Hello], "not even a proof"


async def test_a_man_in_the_middle_who_strips_the_nonce_is_refused_by_both(tmp_path: Path) -> None:
    """He makes the node believe in an insecure caller, and hands its answers on."""
    answers: list[Message] = []
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:

        async def strips(channel: Channel) -> None:
            hello = await channel.receive()
            assert isinstance(hello, Hello)
            async with dialled(url) as onward:
                answers.append(await asked(onward, replace(hello, nonce="")))
                await channel.send(answers[-1])

        async with fake(strips) as middle:
            assert "but the coordinator uses --insecure" in await failed(middle, tmp_path, KEY)
    assert isinstance(answers[0], Refusal)


@pytest.mark.parametrize(
    "change", [{"run": "mine"}, {"node": "alice2"}, {"coordinator": "mallory"}, {"nonce": "ab" * 32}]
)
async def test_a_man_in_the_middle_who_changes_the_hello_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:

        async def changes(channel: Channel) -> None:
            hello = await channel.receive()
            assert isinstance(hello, Hello)
            async with dialled(url) as onward:
                await channel.send(await asked(onward, replace(hello, **change)))

        async with fake(changes) as middle:
            assert "has a different network key" in await failed(middle, tmp_path, KEY)


async def test_a_refusal_of_anybody_is_one_line_fit_for_a_terminal(tmp_path: Path) -> None:
    async def refuses(channel: Channel) -> None:
        await channel.receive()
        await channel.send(Refusal(kind="key", reason="no\n\x1b[2J" + "x" * 5000))

    async with fake(refuses) as url:
        text = await failed(url, tmp_path, KEY)
    assert text.isprintable() and len(text) < 600
