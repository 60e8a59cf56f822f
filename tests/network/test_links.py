"""Who may talk to a node, and what it makes of those that talk nonsense: they are told why, and it serves on."""

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import fedws
from fedws import wire
from fedws.coordinator.link import dial
from fedws.interfaces import Limits
from fedws.messages import Failure, Hello, Message, Order, Report, Welcome
from tests.nodes import PATIENCE, Gate, Proxy, evaluating, federation, happens, settings, worker

HELLO = Hello(run="rough", node="alice", protocol=wire.VERSION)


def data(message: Message) -> bytes:
    """A message's bytes."""
    return b"".join(wire.encode(message).fragments())


def headed(fields: dict[str, Any], version: int = wire.VERSION) -> bytes:
    """A message of this header and no body."""
    header: bytes = msgpack.packb(fields)
    head = wire.MAGIC + struct.pack("<II", version, len(header)) + header
    return head + bytes(-len(head) % wire.ALIGNMENT)


def order(**changes: Any) -> Order:
    """An order that alice would carry out."""
    model = torch.nn.Linear(4, 10)
    tensors = {f"dense.{name}": value.detach() for name, value in model.named_parameters()}
    training = fedws.Training(model="points_linear", dataset="points").model_dump()
    given: dict[str, Any] = {"id": "1/alice", "worker": "alice", "round": 1, "task": "fedavg.fit", "settings": training}
    given["tensors"] = {**tensors, "calls": torch.zeros((), dtype=torch.int64)}
    return Order(**{**given, **changes})


def claim(size: int) -> dict[str, Any]:
    """The header of a hello that says it has one tensor of so many bytes."""
    table = [{"name": "w", "dtype": "uint8", "shape": [size], "length": size}]
    return {"type": "hello", "fields": {}, "tensors": table, "transfer": "", "digest": None, "offset": 0}


@contextlib.asynccontextmanager
async def rough(url: str) -> AsyncIterator[ClientConnection]:
    """A websocket to a node, for whatever one wants to send."""
    async with connect(url, compression=None, proxy=None, close_timeout=PATIENCE) as socket:
        yield socket


async def closed(socket: ClientConnection) -> str:
    """Wait until the node closes the link; gives the reason."""
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed:
            return socket.close_reason or ""


async def answer(socket: ClientConnection) -> Message:
    """The node's next message."""
    decoder = wire.Decoder()
    async with asyncio.timeout(PATIENCE):
        decoder.feed(await socket.recv(decode=False))
    return decoder.message()


async def welcomed(socket: ClientConnection) -> None:
    """Begin a run."""
    await socket.send(data(HELLO))
    assert isinstance(await answer(socket), Welcome)


async def honest(url: str, folder: Path) -> None:
    """A run on that worker must go well."""
    result = await fedws.run(run_dir=folder, **settings({"alice": url}, training_rounds=1))
    assert [record["answered"] for record in result.metrics] == [1]


STRANGE: dict[str, tuple[str | bytes, str]] = {
    "text": ("hello", "a text frame; messages are binary"),
    "random bytes": (os.urandom(70), "not a fedws message"),
    "nothing": (b"", "message ends before the length it declares"),
    "wrong magic": (b"FDWX" + data(HELLO)[4:], "not a fedws message"),
    "another version": (headed(claim(0), 2), "protocol version 2; this node speaks version 1"),
    "no msgpack": (wire.MAGIC + struct.pack("<II", 1, 52) + b"\xc1" * 52, "header is not msgpack"),
    "huge header": (wire.MAGIC + struct.pack("<II", 1, 2**31) + bytes(52), "header of 2147483648 bytes; at most"),
    "huge body": (headed(claim(2**40)), "message of 1099511627904 bytes; at most 1073741824"),
    "more than said": (data(HELLO) + bytes(64), "message is longer than the 0 bytes of body it declares"),
    "less than said": (headed(claim(64)), "message ends before the length it declares"),
    "half": (data(HELLO)[:20], "message ends before the length it declares"),
    "no such type": (headed({**claim(0), "type": "shell"}), "unknown message type 'shell'"),
    "wrong field": (headed({**claim(0), "fields": {"run": 1}, "tensors": []}), "hello: run"),
    "order first": (data(order()), "before hello"),
    "welcome first": (
        data(Welcome(node="alice", role="worker", dataset="points", samples=1)),
        "before hello",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_who_begins_with_nonsense_is_told_so(name: str) -> None:
    sent, reason = STRANGE[name]
    async with fedws.serving(worker(), "ws://localhost:0") as url:
        async with rough(url) as socket:
            await socket.send(sent)
            assert reason in await closed(socket)
            assert socket.close_code == 4000
        async with rough(url) as socket:
            await welcomed(socket)


AFTER_HELLO: dict[str, tuple[str | bytes, str]] = {
    "text": ("go", "a text frame; messages are binary"),
    "random bytes": (os.urandom(3000), "not a fedws message"),
    "hello again": (data(HELLO), "where an order was due"),
    "order for another": (data(order(worker="bob")), "an order for bob; this is alice"),
    "a report": (data(Report(order="1", worker="alice", round=1, samples=1)), "where an order was due"),
    "huge body": (headed({**claim(2**40), "type": "order"}), "at most 1073741824"),
}


@pytest.mark.parametrize("name", AFTER_HELLO)
async def test_who_goes_on_with_nonsense_is_told_so(name: str) -> None:
    sent, reason = AFTER_HELLO[name]
    async with fedws.serving(worker(), "ws://localhost:0") as url:
        async with rough(url) as socket:
            await welcomed(socket)
            await socket.send(sent)
            assert reason in await closed(socket)
        async with rough(url) as socket:
            await welcomed(socket)


async def test_a_worker_outlives_all_of_it_and_then_runs(tmp_path: Path) -> None:
    """On one worker: nonsense, half messages, frames that are too large, plain TCP; then an honest run."""
    half_sent = asyncio.Event()

    async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        half_sent.set()
        await asyncio.Event().wait()

    async with fedws.serving(worker(), "ws://localhost:0", Limits(message=2**22)) as url:
        for sent, _ in STRANGE.values():
            async with rough(url) as socket:
                await socket.send(sent)
                await closed(socket)
        async with rough(url) as socket:
            await socket.send(data(HELLO)[:4])
        async with rough(url) as socket:  # one frame of more than a fragment
            await welcomed(socket)
            await socket.send(wire.MAGIC + bytes(2**21))
            await closed(socket)
            assert socket.close_code == 1009
        async with rough(url) as socket:  # the first half of an order, and gone without a word
            await welcomed(socket)
            half = data(order())
            sending = asyncio.create_task(socket.send(pieces(half[:100], half[100:150])))
            await asyncio.wait_for(half_sent.wait(), PATIENCE)
            socket.transport.abort()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(100))
        async with asyncio.timeout(PATIENCE):
            await reader.read()
        writer.close()
        await writer.wait_closed()
        await honest(url, tmp_path / "run")


async def test_an_unknown_task_is_refused_and_the_link_stays() -> None:
    async with fedws.serving(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(data(order(task="os.system")))
        refusal = await answer(socket)
        assert isinstance(refusal, Failure)
        assert refusal.kind == "refused"
        assert "unknown task 'os.system'" in refusal.reason
        await socket.send(data(order(settings={"model": "points_linear"}, id="2")))
        refusal = await answer(socket)
        assert isinstance(refusal, Failure)
        assert (refusal.order, refusal.reason) == ("2", "alice holds points, not mnist")
        await socket.send(data(order(id="3")))
        report = await answer(socket)
        assert isinstance(report, Report)
        assert (report.order, report.samples) == ("3", 120)


async def test_a_silent_peer_is_let_go() -> None:
    async with fedws.serving(worker(), "ws://localhost:0", Limits(silence=1.2)) as url, rough(url) as socket:
        assert await closed(socket) == "no hello in time"


async def test_a_busy_worker_says_which_run_holds_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedws")
    async with fedws.serving(worker(), "ws://localhost:0") as url:
        link = await dial("alice", url, "the-first", "worker", "points", Limits())
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": url}, silence=1.5))
        busy = "alice is busy with run the-first"
        assert str(failed.value) == f"alice at {url} could not be reached in 1.5 s: {busy}"
        assert f"Waiting for alice at {url} ({busy}), at most 1.5 s" in caplog.messages
        assert not (tmp_path / "run").exists()
        waiting = asyncio.create_task(honest(url, tmp_path / "run"))
        await link.channel.close()
        await waiting


async def test_an_address_that_reaches_another_node(tmp_path: Path) -> None:
    """Also two workers that call themselves alice: the second one's address is meant for bob."""
    async with fedws.serving(worker(), "ws://localhost:0") as one, fedws.serving(worker(), "ws://localhost:0") as two:
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": one, "bob": two}))
        assert str(failed.value) == f"bob at {two}: this is alice, not bob"
        assert not (tmp_path / "run").exists()
        same = one.replace("localhost", "127.0.0.1")
        with pytest.raises(fedws.RunFailed, match=r"this is alice, not bob$"):
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": one, "bob": same}))
        with pytest.raises(fedws.UsageError, match=f"{one} is named for two nodes"):
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": one, "bob": one}))
        await honest(one, tmp_path / "run")


async def test_roles_are_not_mixed_up(tmp_path: Path) -> None:
    """The evaluator is no worker, and a worker no evaluator: a mistake in the plan, which no run should hide."""
    async with (
        fedws.serving(worker(), "ws://localhost:0") as alice,
        fedws.serving(worker("bob"), "ws://localhost:0") as bob,
        fedws.serving(evaluating(), "ws://localhost:0") as score,
    ):
        flags = settings({"alice": alice})
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "a", **{**flags, "workers": {"alice": alice, "testing": score}})
        assert str(failed.value) == f"testing at {score}: it is an evaluator, not a worker"
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "b", **{**flags, "evaluator": {"bob": bob}})
    assert str(failed.value) == f"bob at {bob}: it is a worker, not an evaluator"


async def test_a_run_without_a_name_keeps_a_worker_busy_too() -> None:
    async with fedws.serving(worker(), "ws://localhost:0") as url:
        link = await dial("alice", url, "", "worker", "points", Limits())
        with pytest.raises(fedws.RunFailed, match="alice is busy"):
            await dial("alice", url, "", "worker", "points", Limits(silence=0.5))
        await link.channel.close()


async def test_a_worker_with_other_data_is_named(tmp_path: Path) -> None:
    other = fedws.Worker("alice", "other_points", worker()._workspace.data)
    async with fedws.serving(other, "ws://localhost:0") as url:
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": url}))
    assert str(failed.value) == f"alice at {url}: it holds other_points, not points; see --dataset"


async def test_pings_are_answered_while_a_worker_trains() -> None:
    gate = Gate()
    async with fedws.serving(worker(task=gate), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(data(order()))
        await happens(gate.entered)
        for _ in range(3):
            await asyncio.wait_for(await socket.ping(), PATIENCE)
        async with rough(url) as second:
            await second.send(data(HELLO))
            assert getattr(await answer(second), "kind", None) == "busy"
        gate.opened.set()
        assert isinstance(await answer(socket), Report)


@pytest.mark.parametrize("how", ["closes", "dies", "falls silent"])
async def test_a_coordinator_that_vanishes_stops_the_training(how: str, tmp_path: Path) -> None:
    """Soon, and the worker is free for the next run."""
    gate = Gate()
    limits = Limits(silence=3) if how == "falls silent" else Limits()
    async with fedws.serving(worker(task=gate), "ws://localhost:0", limits) as url, Proxy(url) as proxy:
        async with contextlib.AsyncExitStack() as stack:
            socket = await stack.enter_async_context(rough(proxy.url))
            await welcomed(socket)
            await socket.send(data(order()))
            await happens(gate.entered)
            if how == "closes":
                await socket.close()
            elif how == "dies":
                socket.transport.abort()
            else:
                proxy.freeze()
            await happens(gate.stopped)
            socket.transport.abort()
        gate.opened.set()
        await honest(url, tmp_path / "run")


async def test_a_worker_that_falls_silent_ends_the_run_by_name(tmp_path: Path) -> None:
    """Neither closed nor answering: its pings are missed."""
    gate = Gate(held=(2,))
    async with federation(tasks={"bob": gate}) as flags, Proxy(flags["workers"]["bob"]) as proxy:
        flags["workers"]["bob"] = proxy.url
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **flags, silence=3))
        await happens(gate.entered)
        proxy.freeze()
        with pytest.raises(fedws.RunFailed, match=r"^round 2: bob: link lost: "):
            await asyncio.wait_for(run, PATIENCE)
    assert (tmp_path / "run" / "model.safetensors").exists()
