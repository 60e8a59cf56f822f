"""Both ends of a link: what a node makes of those that talk nonsense, and the coordinator of nodes that come and go.

What takes time is tested in virtual time, where a minute is over at once and nothing is ever early or late.
"""

import asyncio
import contextlib
import functools
import os
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import fedws
from fedws import wire
from fedws.coordinator.fleet import Fleet
from fedws.coordinator.link import FIRST_PAUSE, Link
from fedws.errors import LinkLost, RunFailed, WrongNode
from fedws.header import ALIGNMENT
from fedws.interfaces import Channel, Limits
from fedws.messages import Event, Failure, Hello, Joined, Left, Measured, Message, Order, Refusal, Report, Welcome
from fedws.security import INSECURE
from fedws.service import TAKEN_OVER
from fedws.simulation import clock
from fedws.transport.memory import Memory
from tests.nodes import PATIENCE, Gate, Proxy, evaluating, federation, happens, settings, worker

HELLO = Hello(run="rough", node="alice", protocol=wire.VERSION)

# --------------------------------------------------------------------------- a node's end


@pytest.fixture(autouse=True)
def nobody_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake is spoken by hand here; ``test_keys.py`` is about keys."""
    for module in ("fedws.service", "fedws.coordinator.run"):
        monkeypatch.setattr(f"{module}.default", lambda: INSECURE)


def data(message: Message) -> bytes:
    """A message's bytes."""
    return b"".join(wire.encode(message).fragments())


def headed(fields: dict[str, Any], version: int = wire.VERSION) -> bytes:
    """A message of this header and no body."""
    header: bytes = msgpack.packb(fields)
    head = wire.MAGIC + struct.pack("<II", version, len(header)) + header
    return head + bytes(-len(head) % ALIGNMENT)


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
    "huge body": (headed(claim(2**40)), "message of 1099511627904 bytes; at most 65536"),
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
    """The second run waits for it, and has it as soon as it is free."""
    caplog.set_level("INFO", "fedws")
    async with fedws.serving(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": url}, silence=1.5))
        busy = r"alice is busy with run rough since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        where = f"alice at {re.escape(url)}"
        assert re.fullmatch(rf"waited 1\.5 s in vain for {where} \({busy}\)", str(failed.value))
        assert any(re.fullmatch(rf"Waiting for {where} \({busy}\)", text) for text in caplog.messages)
        assert not (tmp_path / "run").exists()
        waiting = asyncio.create_task(honest(url, tmp_path / "run"))
        await socket.close()
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
    """The evaluator is no worker, which ends the run; a worker is no evaluator, which costs the scores."""
    async with (
        fedws.serving(worker(), "ws://localhost:0") as alice,
        fedws.serving(worker("bob"), "ws://localhost:0") as bob,
        fedws.serving(evaluating(), "ws://localhost:0") as score,
    ):
        flags = settings({"alice": alice})
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "a", **{**flags, "workers": {"alice": alice, "testing": score}})
        assert str(failed.value) == f"testing at {score}: it is an evaluator, not a worker"
        await fedws.run(run_dir=tmp_path / "b", **{**flags, "evaluator": {"bob": bob}, "silence": 0.5})
    text = (tmp_path / "b" / "run.log").read_text()
    assert "Scores missing in round 1: alice, federated (bob: it is a worker, not an evaluator)" in text


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
            await second.send(data(replace(HELLO, run="another")))
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


async def test_a_worker_that_falls_silent_is_awaited_then_named(tmp_path: Path) -> None:
    """Neither closed nor answering, and whoever dials it hears nothing."""
    gate = Gate(held=(2,))
    async with federation(tasks={"bob": gate}) as flags, Proxy(flags["workers"]["bob"]) as proxy:
        flags["workers"]["bob"] = proxy.url
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **flags, silence=1.2))
        await happens(gate.entered)
        proxy.freeze()
        with pytest.raises(fedws.RunFailed, match=rf"^waited 1\.2 s in vain for bob at {proxy.url} \(no answer\)$"):
            await asyncio.wait_for(run, PATIENCE)
    assert (tmp_path / "run" / "model.safetensors").exists()


# --------------------------------------------------------------------------- the coordinator's end


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time; one that waits for what never comes fails at once."""

    @functools.wraps(test)
    def run(*given: Any, **fixtures: Any) -> None:
        clock.run(test(*given, **fixtures))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


WELCOME = Welcome(node="alice", role="worker", dataset="points", samples=120, labels=[0, 1])
MODEL = {"w": torch.arange(1000.0)}


class Peer:
    """Who is at ``memory://NODE``: takes a hello on each link, then does what is next in the script."""

    def __init__(self, *script: "Part", node: str = "alice") -> None:
        self.node = node
        self.url = f"memory://{node}"
        self.script = list(script)
        self.dialled: list[float] = []
        """When each link was opened."""
        self.channels: list[Channel] = []
        self.reasons: list[str] = []
        """Why each link was closed, where a part waited for that."""

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        async with Memory().serve(self.url, self._handle, Limits()):
            yield

    async def welcomes(self, channel: Channel) -> None:
        """Welcome the run, and go."""
        await channel.send(replace(WELCOME, node=self.node))

    async def stays(self, channel: Channel) -> None:
        """Welcome the run, and answer nothing."""
        await self.welcomes(channel)
        await self.reads(channel)

    async def works(self, channel: Channel) -> None:
        """Welcome the run, and answer every order."""
        await self.welcomes(channel)
        with contextlib.suppress(LinkLost):
            while True:
                await channel.send(reported(await channel.receive()))

    async def reads(self, channel: Channel) -> None:
        """Read whatever comes."""
        try:
            while True:
                await channel.receive()
        except LinkLost as lost:
            self.reasons.append(str(lost))

    async def _handle(self, channel: Channel) -> None:
        self.dialled.append(now())
        self.channels.append(channel)
        hello = await channel.receive()
        assert hello == Hello(run="cafe", node=self.node, protocol=wire.VERSION)
        await (self.script.pop(0) if len(self.script) > 1 else self.script[0])(self, channel)


Part = Callable[[Peer, Channel], Awaitable[None]]


def says(*messages: Message) -> Part:
    """Answer the hello so, and go."""

    async def part(peer: Peer, channel: Channel) -> None:
        for message in messages:
            await channel.send(message)

    return part


def answers(*messages: Message) -> Part:
    """Welcome the run, answer one order so, and stay."""

    async def part(peer: Peer, channel: Channel) -> None:
        await peer.welcomes(channel)
        await channel.receive()
        for message in messages:
            await channel.send(message)
        await peer.reads(channel)

    return part


class Heard:
    """A link that is being kept, and all that is heard of it in its order: events and answers."""

    def __init__(self, url: str = "memory://alice", node: str = "alice", silence: float = 60, **more: Any) -> None:
        given: dict[str, Any] = {"role": "worker", "seed": 1, "message": 2**30, **more}
        limits = Limits(given["message"], silence)
        self.link = Link(node, url, given["role"], "cafe", "points", limits, given["seed"], INSECURE)
        self.all: list[Event] = []
        self._news: asyncio.Queue[Event] = asyncio.Queue()

    async def __aenter__(self) -> "Heard":
        self.task = asyncio.create_task(self.link.keep(self._post))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def _post(self, event: Event) -> None:
        self.all.append(event)
        self._news.put_nowait(event)

    async def next(self) -> Event:
        return await self._news.get()

    async def give(self, order: Order) -> None:
        await self.link.give(order, self._post)


def asked(node: str = "alice", round: int = 1) -> Order:
    return Order(id=f"{round}/{node}", worker=node, round=round, task="t", tensors=MODEL)


def reported(order: Message, **changes: Any) -> Report:
    assert isinstance(order, Order)
    report = Report(order=order.id, worker=order.worker, round=order.round, samples=120, tensors=order.tensors)
    return replace(report, **changes)


def failed(kind: Any, reason: str = "as it is") -> Failure:
    return Failure(order="1/alice", worker="alice", round=1, kind=kind, reason=reason)


REPORT = reported(asked())
JOINED = Joined(worker="alice", samples=120)
LOST = failed("lost", "link lost: the node ends")
LEFT = Left(worker="alice", reason="link lost: the node ends")


@virtual
async def test_the_node_may_be_there_first() -> None:
    peer = Peer(Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        assert now() == 0 and heard.link.up.is_set() and not heard.link.trouble
        assert heard.link.welcome == WELCOME


@virtual
async def test_the_coordinator_may_be_there_first(caplog: pytest.LogCaptureFixture) -> None:
    """By hours."""
    caplog.set_level("INFO", "fedws")
    async with Heard() as heard:
        await asyncio.sleep(20_000)
        assert not heard.all and not heard.link.up.is_set()
        peer = Peer(Peer.stays)
        async with peer.served():
            assert await heard.next() == JOINED
            assert 20_000 < now() <= 20_005
    assert caplog.messages == ["Waiting for alice at memory://alice (nobody serves memory://alice)"], "said once"


async def dials(monkeypatch: pytest.MonkeyPatch, seconds: float, **more: Any) -> list[float]:
    """When a link dials a node that is not there."""
    times: list[float] = []
    connect = Memory.connect

    async def counted(self: Memory, url: str, limits: Limits, *more: Any) -> Channel:
        times.append(now())
        return await connect(self, url, limits, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Memory, "connect", counted)
        async with Heard(**more):
            await asyncio.sleep(seconds)
    return times


@pytest.mark.parametrize("silence", [60.0, 12.0, 0.5])
def test_pauses_double_up_to_a_bound_and_are_drawn(monkeypatch: pytest.MonkeyPatch, silence: float) -> None:
    most = max(FIRST_PAUSE, silence / 12)
    times = clock.run(dials(monkeypatch, 300, silence=silence))
    pauses = [after - before for before, after in pairwise(times)]
    assert times[0] == 0
    for number, pause in enumerate(pauses):
        longest = min(FIRST_PAUSE * 2 ** min(number, 10), most)
        assert longest / 2 <= pause + 1e-9 and pause <= longest + 1e-9
    late = pauses[10:]
    assert min(late) < 0.6 * most and max(late) > 0.9 * most, "over all of the range"


def test_nodes_are_not_dialled_in_step_and_a_run_again_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def when(**more: Any) -> tuple[float, ...]:
        return tuple(clock.run(dials(monkeypatch, 60, **more)))

    alice = when()
    assert when() == alice
    assert len({alice, when(node="bob"), when(seed=2)}) == 3
    assert not set(alice[1:]) & set(when(node="bob"))


@virtual
async def test_a_lost_link_is_dialled_again_and_the_events_come_in_order() -> None:
    peer = Peer(Peer.stays)
    async with Heard() as heard:
        for again in range(3):
            async with peer.served():
                assert await heard.next() == JOINED
                await heard.give(asked())
                began = now()
            assert [await heard.next(), await heard.next()] == [LOST, LEFT]
            assert not heard.link.up.is_set() and heard.link.trouble == LEFT.reason
            assert heard.link.away_since == began == now()
            await asyncio.sleep(50 * again)
    assert heard.all == 3 * [JOINED, LOST, LEFT]


@virtual
async def test_who_welcomes_every_run_and_is_gone_is_not_dialled_without_end() -> None:
    """As what stands before a node that is down may do."""

    async def goes(peer: Peer, channel: Channel) -> None:
        await (peer.welcomes if len(peer.dialled) < 100 else peer.stays)(channel)

    peer = Peer(goes)
    async with peer.served(), Heard() as heard:
        await asyncio.sleep(60)
        assert [type(event) for event in heard.all] == [Joined, Left] * len(peer.dialled)
        assert 12 < len(peer.dialled) < 40
        peer.script = [answers(REPORT), Peer.stays]
        while heard.link.trouble:
            await heard.next()
        await heard.give(asked())
        while not isinstance(await heard.next(), Report):
            pass
        await peer.channels[-1].close()
        since = now()
        while not heard.link.up.is_set():
            await heard.next()
        assert now() - since <= FIRST_PAUSE, "one that has answered is dialled again at once"


@virtual
async def test_a_mute_peer_is_given_up_after_silence_and_dialled_again() -> None:
    async def mute(peer: Peer, channel: Channel) -> None:
        await asyncio.Event().wait()

    peer = Peer(mute, Peer.stays)
    async with peer.served(), Heard(silence=6) as heard:
        await asyncio.sleep(6)
        await asyncio.sleep(0)
        assert heard.link.trouble == "no answer"
        assert await heard.next() == JOINED
    assert 6 < peer.dialled[1] < 6.2


# --------------------------------------------------------------------------- answers


NOT_DUE: dict[str, tuple[Message, str]] = {
    "no order of that id": (replace(REPORT, order="1/bob"), "an answer to 1/bob, which is no open order"),
    "another's order": (replace(REPORT, worker="bob"), "an answer to 1/alice, which is no open order"),
    "another round": (replace(REPORT, round=2), "an answer to 1/alice, which is no open order"),
    "a failure of another": (
        Failure(order="9", worker="alice", round=1, kind="failed", reason="?"),
        "an answer to 9, which is no open order",
    ),
    "no answer": (WELCOME, "welcome where an answer was due"),
    "control characters": (replace(REPORT, order="\x1b[2J\n"), "an answer to ?[2J?, which is no open order"),
}


@pytest.mark.parametrize("name", NOT_DUE)
@virtual
async def test_an_answer_that_is_not_due_breaks_the_link(name: str) -> None:
    """The node is told why, its order has failed, since that would happen again, and it is dialled again."""
    message, reason = NOT_DUE[name]
    peer = Peer(answers(message), Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        events = [await heard.next() for _ in range(3)]
    why = f"broke the protocol: {reason}"
    assert events == [failed("failed", why), Left(worker="alice", reason=why), JOINED]
    assert peer.reasons[0] == reason


@virtual
async def test_an_answer_that_comes_twice_is_not_due_the_second_time() -> None:
    peer = Peer(answers(REPORT, REPORT), Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        assert isinstance(await heard.next(), Report)
        assert isinstance(await heard.next(), Left)


CLAIMS = {"refused": "refused", "failed": "failed", "lost": "failed", "rejected": "failed"}


@pytest.mark.parametrize(("claimed", "kind"), CLAIMS.items())
@virtual
async def test_a_node_cannot_claim_what_only_the_coordinator_finds(claimed: str, kind: str) -> None:
    peer = Peer(answers(failed(claimed, "line\n\x1b[2J" + 999 * "x")))
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        assert await heard.next() == failed(kind, "line??[2J" + 491 * "x")


@virtual
async def test_an_order_without_a_link_is_lost_at_once() -> None:
    async with Heard() as heard:
        await heard.give(asked())
        assert heard.all == [failed("lost", "not dialled yet")]
        await asyncio.sleep(1)
        assert await heard.link.ask(asked()) == failed("lost", "nobody serves memory://alice")


@virtual
async def test_an_order_that_cannot_be_sent_has_failed_and_the_link_stays() -> None:
    peer = Peer(Peer.works)
    async with peer.served(), Heard(message=2048) as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        failure = await heard.next()
        assert isinstance(failure, Failure)
        assert failure.kind == "failed" and failure.reason.startswith("its order cannot be sent: ")
        small = Order(id="2", worker="alice", round=2, task="t")
        assert await heard.link.ask(small) == reported(small)
    assert len(peer.dialled) == 1


@virtual
async def test_bytes_are_counted_over_all_links() -> None:
    peer = Peer(Peer.works)
    counts = []
    async with Heard() as heard:
        for round in (1, 2, 3):
            async with peer.served():
                assert await heard.next() == JOINED
                assert isinstance(await heard.link.ask(asked(round=round)), Report)
                counts.append(heard.link.transferred)
            assert isinstance(await heard.next(), Left)
            assert heard.link.transferred == counts[-1]
    for number, (sent, received) in enumerate(counts, 1):
        assert sent == sum(channel.received for channel in peer.channels[:number]) > number * 4000
        assert received == sum(channel.sent for channel in peer.channels[:number]) > number * 4000


# --------------------------------------------------------------------------- who answers


def refusal(kind: Any) -> Refusal:
    return Refusal(kind=kind, reason="this is bob\x1b, not alice")


WRONG: dict[str, tuple[Message, type[Exception], str]] = {
    "another node": (refusal("node"), WrongNode, "this is bob?, not alice"),
    "another protocol": (refusal("protocol"), WrongNode, "this is bob?, not alice"),
    "another role": (
        replace(WELCOME, role="evaluator"),
        WrongNode,
        "it is an evaluator, not a worker",
    ),
    "other data": (
        replace(WELCOME, dataset="digits\n"),
        WrongNode,
        "it holds digits?, not points; see --dataset",
    ),
    "no welcome": (REPORT, RunFailed, "report where a welcome was due"),
}


@pytest.mark.parametrize("name", WRONG)
@virtual
async def test_who_is_not_the_node_that_was_meant_ends_the_run(name: str) -> None:
    message, kind, reason = WRONG[name]
    peer = Peer(says(message))
    async with peer.served(), Heard() as heard:
        with pytest.raises(kind) as caught:
            await heard.task
        assert str(caught.value) == f"alice at memory://alice: {reason}"
        assert not heard.all


@pytest.mark.parametrize("contact", ["second", "first, of a run that is going on"])
@pytest.mark.parametrize("name", WRONG)
@virtual
async def test_later_it_is_dialled_on(name: str, contact: str) -> None:
    """An address may be given to another device for a while."""
    message, _, reason = WRONG[name]
    peer = Peer(Peer.welcomes, says(message), says(message), Peer.stays)
    async with peer.served(), Heard() as heard:
        if contact == "second":
            assert [type(await heard.next()) for _ in range(2)] == [Joined, Left]
        else:
            peer.script[0] = says(message)
            heard.link.strict = False
        while len(peer.dialled) < 3:
            await asyncio.sleep(0.01)
        assert heard.link.trouble.removeprefix("broke the protocol: ") == reason
        assert await heard.next() == JOINED


@virtual
async def test_a_busy_node_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedws")
    peer = Peer(*3 * [says(refusal("busy"))], Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
    assert len(peer.dialled) == 4
    assert caplog.messages == ["Waiting for alice at memory://alice (this is bob?, not alice)"]


@virtual
async def test_a_node_that_another_coordinator_took_over_is_left_to_it() -> None:
    """That one goes on with the same run; two that dial again would take the node from each other for ever."""
    peer = Peer(Peer.stays)
    async with peer.served(), Heard() as heard:
        assert await heard.next() == JOINED
        await heard.give(asked())
        await peer.channels[0].close(TAKEN_OVER)
        with pytest.raises(RunFailed) as caught:
            await heard.task
    assert str(caught.value) == f"alice at memory://alice: {TAKEN_OVER}"
    why = f"link lost: {TAKEN_OVER}"
    assert heard.all[1:] == [failed("lost", why), Left(worker="alice", reason=why)]
    assert len(peer.dialled) == 1


async def test_two_coordinators_of_one_run_do_not_take_a_worker_from_each_other() -> None:
    """The same over sockets, with a worker that is none of the test's making."""
    async with fedws.serving(worker(), "ws://localhost:0") as url, Heard(url) as first:
        assert await asyncio.wait_for(first.next(), PATIENCE) == replace(JOINED, samples=120)
        async with Heard(url) as second:
            assert isinstance(await asyncio.wait_for(second.next(), PATIENCE), Joined)
            with pytest.raises(RunFailed, match=rf"^alice at {url}: {TAKEN_OVER}$"):
                await asyncio.wait_for(first.task, PATIENCE)
            assert not second.link.trouble


# --------------------------------------------------------------------------- the fleet


def fleet(*nodes: str, silence: float = 60, for_ever: bool = False) -> Fleet:
    """Links to these nodes, at their names."""
    found = {node: Heard(f"memory://{node}", node, silence).link for node in nodes}
    return Fleet(found, silence, for_ever=for_ever)


def peers(*nodes: str) -> dict[str, Peer]:
    """Nodes that answer every order."""
    return {node: Peer(Peer.works, node=node) for node in nodes}


@virtual
async def test_a_cohort_is_gathered_as_soon_as_all_are_there() -> None:
    there = peers("bob", "alice", "charlie")
    async with there["bob"].served(), there["alice"].served(), fleet("alice", "bob", "charlie") as gathered:
        gathering = asyncio.create_task(gathered.gather(1))
        await asyncio.sleep(30)
        async with there["charlie"].served():
            assert list((await gathering).items()) == [("alice", 120), ("bob", 120), ("charlie", 120)], "as in the plan"
            assert now() < 36
            assert gathered.groups == {node: [0, 1] for node in ("alice", "bob", "charlie")}


@virtual
async def test_after_silence_a_quorum_is_enough() -> None:
    there = peers("alice", "charlie")
    async with there["alice"].served(), there["charlie"].served(), fleet("alice", "bob", "charlie") as gathered:
        assert await gathered.gather(2) == {"alice": 120, "charlie": 120}
        assert now() == 60
        assert gathered.groups == {"alice": [0, 1], "bob": [], "charlie": [0, 1]}


@virtual
async def test_without_a_quorum_the_run_ends_and_names_who_was_awaited() -> None:
    there = peers("alice", "bob")
    async with there["alice"].served(), fleet("alice", "bob", "charlie") as gathered:
        async with there["bob"].served():
            gathering = asyncio.create_task(gathered.gather(2))
            await asyncio.sleep(30)
        with pytest.raises(RunFailed) as caught:
            await gathering
    missing = [f"{node} at memory://{node} (nobody serves memory://{node})" for node in ("bob", "charlie")]
    assert str(caught.value) == f"waited 60 s in vain for {', '.join(missing)}", "bob was there, and left"
    assert now() == 60


@virtual
async def test_a_run_may_wait_for_ever_for_a_quorum() -> None:
    there = peers("alice", "bob")
    async with there["alice"].served(), fleet("alice", "bob", "charlie", for_ever=True) as gathered:
        gathering = asyncio.create_task(gathered.gather(2))
        await asyncio.sleep(10_000)
        async with there["bob"].served():
            assert (await gathering).keys() == {"alice", "bob"}, "and no longer than for that"
            assert now() < 10_006


@virtual
async def test_a_wrong_node_that_comes_after_the_gathering_is_away() -> None:
    there = peers("alice")
    wrong = Peer(says(refusal("node")), node="bob")
    async with there["alice"].served(), fleet("alice", "bob") as gathered:
        await gathered.gather(1)
        async with wrong.served():
            await asyncio.sleep(60)
            assert not gathered.heard
            assert "this is bob?, not alice" in gathered.unreached({"bob"})


@virtual
async def test_an_evaluator_s_wrong_node_is_one_that_is_away() -> None:
    peer = Peer(says(refusal("node")))
    async with peer.served(), Heard(role="evaluator") as heard:
        await asyncio.sleep(60)
        assert not heard.task.done() and heard.link.trouble == "this is bob?, not alice"


@virtual
async def test_a_wrong_node_ends_the_gathering() -> None:
    peer = Peer(says(refusal("node")))
    async with peer.served(), fleet("alice", "bob") as gathered:
        with pytest.raises(WrongNode, match=r"^alice at memory://alice: this is bob\?, not alice$"):
            await gathered.gather(1)


@virtual
async def test_an_answer_is_an_event_after_the_time_that_it_took() -> None:
    async def later(peer: Peer, channel: Channel) -> None:
        await channel.send(WELCOME)
        order = await channel.receive()
        await asyncio.sleep(2.5)
        await channel.send(reported(order))
        await channel.receive()
        await channel.send(failed("failed"))
        await channel.receive()

    peer = Peer(later)
    async with peer.served(), fleet("alice") as gathered:
        assert await gathered.gather(1) == {"alice": 120}
        gathered.give(asked())
        assert gathered.waiting == ["alice"]
        assert await gathered.next() == Measured(worker="alice", seconds=2.5)
        assert isinstance(await gathered.next(), Report)
        assert gathered.waiting == []
        gathered.give(asked())
        assert await gathered.next() == failed("failed"), "which says nothing of its speed"
        link = gathered.links["alice"]
        assert gathered.transferred == link.transferred == (peer.channels[0].received, peer.channels[0].sent)


@virtual
async def test_orders_that_a_lost_link_took_along_come_before_its_left() -> None:
    peer = Peer(Peer.stays)
    async with fleet("alice") as gathered:
        async with peer.served():
            await gathered.gather(1)
            gathered.give(asked())
            gathered.give(asked(round=2))
            await asyncio.sleep(1)
        events = [await gathered.next() for _ in range(3)]
        lost = [replace(LOST, order=f"{round}/alice", round=round) for round in (1, 2)]
        assert events == [*lost, LEFT]
        gathered.give(asked(round=3))
        assert await gathered.next() == replace(LOST, order="3/alice", round=3)
        assert gathered.waiting == []


@virtual
async def test_nothing_is_left_of_a_fleet() -> None:
    before = asyncio.all_tasks()
    peer = Peer(Peer.stays)
    async with peer.served():
        async with fleet("alice", "bob") as gathered:
            await gathered.next()
            gathered.give(asked())
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert peer.reasons == ["closed"]
