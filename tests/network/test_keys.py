"""Who does not know the network key gets in on neither side, over real sockets; nor does who only heard of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

import fedws
from fedws import handshake, wire
from fedws.errors import LinkError, LinkLost
from fedws.interfaces import HANDSHAKE, Channel, Limits
from fedws.keys import Key
from fedws.messages import Challenge, Hello, Message, Order, Proof, Refusal, Welcome
from fedws.security import INSECURE, Security
from fedws.service import transport
from tests.nodes import PATIENCE, Gate, happens, settings, worker

KEY, OTHER = (Security(Key(bytes([number]) * 32, "a test")) for number in (1, 2))
SECRET = bytes([1]) * 32
HELLO = Hello(run="rough", node="alice", protocol=wire.VERSION)
WELCOME = Welcome(node="alice", role="worker", dataset="points", samples=120)
Peer = Callable[[Channel], Any]


@contextlib.asynccontextmanager
async def dialled(url: str) -> AsyncIterator[Channel]:
    """A link to a node, of somebody who says whatever they like."""
    channel = await transport(url).connect(url, Limits())
    try:
        async with asyncio.timeout(PATIENCE):
            yield channel
    finally:
        await channel.close()


async def asked(channel: Channel, hello: Hello) -> Message:
    """The answer to a hello."""
    await channel.send(hello)
    return await channel.receive()


async def honest(url: str, folder: Path, security: Security = KEY) -> None:
    """A run over alice must go well."""
    flags = settings({"alice": url}, training_rounds=1)
    result = await fedws.run(run_dir=folder, security=security, **flags)
    assert [record["answered"] for record in result.metrics] == [1]


async def failed(url: str, folder: Path, security: Security) -> str:
    """A run over alice must end at the first contact; gives what it says, and leaves nothing."""
    with pytest.raises(fedws.RunFailed) as error:
        async with asyncio.timeout(PATIENCE):
            await fedws.run(run_dir=folder / "never", security=security, **settings({"alice": url}, wait="forever"))
    assert not (folder / "never").exists()
    text = str(error.value)
    assert text.startswith(f"alice at {url}: ") and "\n" not in text
    return text.removeprefix(f"alice at {url}: ")


# --------------------------------------------------------------------------- both ends honest


async def test_with_one_key_a_run_goes_well(tmp_path: Path) -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
        await honest(url, tmp_path / "run")


async def test_without_a_key_on_either_side_a_run_goes_well_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=INSECURE) as url:
        await honest(url, tmp_path / "run", INSECURE)
    assert any(line.startswith("alice takes part --insecure: whoever reaches it may") for line in caplog.messages)
    assert "--insecure: no worker has proved that it knows the network key" in (tmp_path / "run/run.log").read_text()


async def test_with_a_key_nothing_is_said_of_insecurity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
        await honest(url, tmp_path / "run")
    assert "insecure" not in caplog.text + (tmp_path / "run/run.log").read_text()


@pytest.mark.parametrize(
    ("node", "run", "text"),
    [
        (KEY, OTHER, f"alice has another network key; {handshake.REMEDY}"),
        (KEY, INSECURE, "alice asks for the network key (--key-file or FEDWS_KEY), and was called --insecure"),
        (INSECURE, KEY, "it takes part --insecure, and proves nothing; give it --key-file or FEDWS_KEY"),
    ],
)
async def test_sides_that_do_not_go_together_say_so_at_the_first_contact(
    node: Security, run: Security, text: str, tmp_path: Path
) -> None:
    """And then the node is free for those who belong to it."""
    async with fedws.serving(worker(), "ws://localhost:0", security=node) as url:
        assert await failed(url, tmp_path, run) == text
        await honest(url, tmp_path / "run", node)


async def test_a_node_tells_its_owner_of_callers_who_prove_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
        await failed(url, tmp_path, OTHER)
        await honest(url, tmp_path / "run")
    assert "alice: a caller at 127.0.0.1 left instead of proving that it knows the network key" in caplog.messages


# --------------------------------------------------------------------------- a foreign coordinator


def wrong(hello: Hello, challenge: Challenge) -> Message:
    other = replace(hello, run="another")
    return Proof(proof=handshake.proof(SECRET, "coordinator", other, challenge.node, challenge.nonce))


def foreign(hello: Hello, challenge: Challenge) -> Message:
    return Proof(proof=handshake.proof(bytes(32), "coordinator", hello, challenge.node, challenge.nonce))


def reflected(hello: Hello, challenge: Challenge) -> Message:
    return Proof(proof=challenge.proof)


@pytest.mark.parametrize("answer", [wrong, foreign, reflected])
async def test_a_wrong_proof_is_refused_with_what_to_do(answer: Callable[[Hello, Challenge], Message]) -> None:
    hello = replace(HELLO, nonce=handshake.nonce())
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url, dialled(url) as channel:
        challenge = await asked(channel, hello)
        assert isinstance(challenge, Challenge)
        await channel.send(answer(hello, challenge))
        refusal = await channel.receive()
        assert isinstance(refusal, Refusal)
        assert (refusal.kind, refusal.reason) == (
            "key",
            f"the caller has another network key than alice; {handshake.REMEDY}",
        )
        with pytest.raises(LinkLost):
            await channel.receive()


async def test_a_handshake_that_was_recorded_opens_nothing_later() -> None:
    hello = replace(HELLO, nonce=handshake.nonce())
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
        async with dialled(url) as channel:
            challenge = await asked(channel, hello)
            assert isinstance(challenge, Challenge)
            recorded = handshake.prove(SECRET, hello, challenge)
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
        Order(id="1", worker="alice", round=1, task="fedavg.fit"),
        HELLO,
        Challenge(node="alice", nonce="00" * 32, proof="00" * 32),
        WELCOME,
    ],
)
async def test_whatever_comes_where_a_proof_was_due_ends_the_link(instead: Message) -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url, dialled(url) as channel:
        await asked(channel, replace(HELLO, nonce=handshake.nonce()))
        await channel.send(instead)
        with pytest.raises(LinkError, match="where a proof was due"):
            await channel.receive()


async def test_an_order_before_the_proof_is_not_carried_out() -> None:
    """Sent ahead, so that it lies there should the node forget to ask."""
    gate = Gate()
    async with fedws.serving(worker(task=gate), "ws://localhost:0", security=KEY) as url, dialled(url) as channel:
        await channel.send(replace(HELLO, nonce=handshake.nonce()))
        await channel.send(Order(id="1", worker="alice", round=1, task="fedavg.fit"))
        assert isinstance(await channel.receive(), Challenge)
        with pytest.raises(LinkError, match="order where a proof was due"):
            await channel.receive()
        assert not gate.entered.is_set()


async def test_a_stranger_hears_no_more_than_the_nodes_id() -> None:
    """Neither what it holds nor which run it serves."""
    gate = Gate()
    async with fedws.serving(worker(task=gate), "ws://localhost:0", security=KEY) as url:
        for hello in (HELLO, replace(HELLO, node="bob"), replace(HELLO, protocol=99, nonce="00" * 32)):
            async with dialled(url) as channel:
                refusal = await asked(channel, hello)
                assert isinstance(refusal, Refusal)
                assert refusal.kind in ("key", "protocol")
                assert "points" not in refusal.reason and "120" not in refusal.reason


async def test_a_stranger_cannot_send_a_large_message() -> None:
    """Nothing above the bound of a handshake is taken before the proof; a member may send it after."""
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
        for before in (HELLO, replace(HELLO, nonce=handshake.nonce())):
            async with dialled(url) as channel:
                await asked(channel, before)
                with pytest.raises(LinkError):
                    await channel.send(replace(HELLO, run="x" * 2 * HANDSHAKE))
                    while True:
                        await channel.receive()


@pytest.mark.parametrize("opcode", [Opcode.PONG, Opcode.PING, Opcode.CONT])
async def test_a_stranger_cannot_send_frame_after_frame(opcode: Opcode) -> None:
    """Each is small, but costs time."""
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
        async with connect(url, compression=None, proxy=None, ping_interval=None) as socket:
            first = [Frame(Opcode.BINARY, wire.MAGIC, fin=False)] if opcode is Opcode.CONT else []
            frames = first + [Frame(opcode, b"", fin=opcode is not Opcode.CONT)] * 1000
            socket.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
            async with asyncio.timeout(PATIENCE):
                await socket.wait_closed()
            assert socket.close_code == 1006, "without a word"
        async with dialled(url) as channel:
            assert isinstance(await asked(channel, replace(HELLO, nonce=handshake.nonce())), Challenge)


async def test_a_stranger_cannot_send_many_bytes_of_any_kind() -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:
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
    async with fedws.serving(worker(task=gate), "ws://localhost:0", security=KEY) as url:
        folder = tmp_path / "run"
        running = asyncio.create_task(fedws.run(run_dir=folder, security=KEY, **settings({"alice": url})))
        await happens(gate.entered)
        name = (folder / "run.json").read_text().partition('"id": "')[2].partition('"')[0]
        for hello in (HELLO, *(replace(HELLO, run=name, nonce=nonce) for nonce in ("", handshake.nonce()))):
            async with dialled(url) as channel:
                answer = await asked(channel, hello)
                if isinstance(answer, Challenge):
                    await channel.send(foreign(hello, answer))
                    answer = await channel.receive()
                assert isinstance(answer, Refusal) and answer.kind == "key"
        gate.opened.set()
        result = await running
        assert [record["answered"] for record in result.metrics if "answered" in record] == [1, 1]
        assert not gate.stopped.is_set()


# --------------------------------------------------------------------------- a fake worker


@contextlib.asynccontextmanager
async def fake(answers: Peer) -> AsyncIterator[str]:
    """Somebody at alice's address who does not know the key, and sees all that is said to them."""

    async def handle(channel: Channel) -> None:
        with contextlib.suppress(LinkError):
            await answers(channel)
            while True:
                await channel.receive()

    async with transport("ws://localhost:0").serve("ws://localhost:0", handle, Limits()) as url:
        yield url


async def welcomes(channel: Channel) -> None:
    await channel.receive()
    await channel.send(WELCOME)


async def invents(channel: Channel) -> None:
    await channel.receive()
    await channel.send(Challenge(node="alice", nonce=handshake.nonce(), proof=handshake.nonce()))


async def reflects(channel: Channel) -> None:
    hello = await channel.receive()
    assert isinstance(hello, Hello)
    await channel.send(Challenge(node="alice", nonce=hello.nonce, proof=hello.nonce))


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (welcomes, "it takes part --insecure, and proves nothing"),
        (invents, "alice has another network key"),
        (reflects, "alice has another network key"),
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
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:

        async def strips(channel: Channel) -> None:
            hello = await channel.receive()
            assert isinstance(hello, Hello)
            async with dialled(url) as onward:
                answers.append(await asked(onward, replace(hello, nonce="")))
                await channel.send(answers[-1])

        async with fake(strips) as middle:
            assert "was called --insecure" in await failed(middle, tmp_path, KEY)
    assert isinstance(answers[0], Refusal)


@pytest.mark.parametrize(
    "change", [{"run": "mine"}, {"node": "alice2"}, {"coordinator": "mallory"}, {"nonce": "ab" * 32}]
)
async def test_a_man_in_the_middle_who_changes_the_hello_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    async with fedws.serving(worker(), "ws://localhost:0", security=KEY) as url:

        async def changes(channel: Channel) -> None:
            hello = await channel.receive()
            assert isinstance(hello, Hello)
            async with dialled(url) as onward:
                await channel.send(await asked(onward, replace(hello, **change)))

        async with fake(changes) as middle:
            assert "has another network key" in await failed(middle, tmp_path, KEY)


async def test_a_refusal_of_anybody_is_one_line_fit_for_a_terminal(tmp_path: Path) -> None:
    async def refuses(channel: Channel) -> None:
        await channel.receive()
        await channel.send(Refusal(kind="key", reason="no\n\x1b[2J" + "x" * 5000))

    async with fake(refuses) as url:
        text = await failed(url, tmp_path, KEY)
    assert text.isprintable() and len(text) < 600
