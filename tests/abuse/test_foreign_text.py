"""Peers with control characters and 500,000 characters in every text: no log, record or terminal is affected."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.cli.console import run_guarded
from fedws.core.errors import FedwsError, LinkError
from fedws.core.untrusted_text import MAX_LINE_CHARS
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.worker import DEFAULT_POLICY
from fedws.privacy import audit_chain, audit_log
from fedws.protocol.messages import (
    MESSAGE_TYPES,
    Challenge,
    DatasetName,
    Hello,
    Identifier,
    Join,
    Json,
    Message,
    PrintableText,
    Refusal,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
)
from tests.helpers.federation import Points, evaluating, registered, settings, worker
from tests.helpers.manual_coordinator import HELLO, closed, data, order, rough, welcomed

HOSTILE = "\x1b[2J\x9b2J\r\n\x00\u202e\u2028\ufeff"
SHORT = HOSTILE + "x" * 60
LONG = HOSTILE + "x" * 500_000
HANDSHAKE = HOSTILE + "x" * 60_000
"""Largest size of a message before a proof."""
PREFIX = 60
"""Number of characters before a line: the time and the name."""
TEXTS: list[object] = [str, Identifier, PrintableText, DatasetName, Json]
SECRET = "ab" * 32


def texts(kind: type[Message]) -> list[str]:
    """Return the fields of a message that contain text."""
    return [field.name for field in dataclasses.fields(kind) if field.type in TEXTS]


def hostile(message: Message, name: str, text: str) -> Message:
    """Return the message with a hostile text in that field or key of a map; a map also gets it as a key."""
    name, _, key = name.partition(".")
    value: Any = text
    if key or name in ("settings", "metrics"):
        value = {**getattr(message, name), text[:1000]: 1.0, key or "loss": text}
    return replace(message, **{name: value})


def right(line: str) -> bool:
    return line.isprintable() and len(line) <= MAX_LINE_CHARS + PREFIX


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from strings(each)


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("fedws.recording.curves.draw_curves", lambda *given, **_: None)
    monkeypatch.setattr("fedws.core.rate_limited_log.RateLimitedLog.INTERVAL_SECONDS", 0.0)
    with registered():
        yield


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Return every line that a program with the library would log, with debug lines and tracebacks."""
    found: list[str] = []
    handler, log = logging.Handler(), logging.getLogger("fedws")
    handler.emit = lambda record: found.extend(logging.Formatter().format(record).split("\n"))  # type: ignore[method-assign]
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    yield found
    log.setLevel(level)
    log.removeHandler(handler)


def terminal(error: BaseException, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the output of a command for an error, with its traceback."""

    def work() -> int:
        raise error

    run_guarded("fedws run", work, verbose=True)
    out, err = capsys.readouterr()
    return [line for line in (out + err).split("\n") if line]


def kept(folder: Path) -> list[str]:
    """Return every line of a run's log and every text of its record."""
    found: list[str] = []
    for path in folder.rglob("run.log"):
        found += path.read_text(encoding="utf-8").split("\n")
    for path in folder.rglob("metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            found += strings(json.loads(line))
    return found


# ------------------------------------------------------------------ a coordinator and its nodes

Node = Callable[[Channel], Awaitable[None]]


def greets_with(message: Message) -> Node:
    async def node(channel: Channel) -> None:
        await channel.receive()
        await channel.send(message)
        await channel.receive()

    return node


def answers_with(answer: Message, *fields: str) -> Node:
    """Send a ``welcome``, and answer each request correctly except for the hostile text."""

    async def node(channel: Channel) -> None:
        await channel.receive()
        channel.mark_authenticated()
        await channel.send(worker()._welcome)
        while True:
            asked = await channel.receive()
            assert isinstance(asked, TaskRequest)
            known: dict[str, Any] = {"request_id": asked.request_id, "worker": asked.worker, "round": asked.round}
            await channel.send(replace(answer, **{key: value for key, value in known.items() if key not in fields}))

    return node


FAILURE = TaskFailure(request_id="", worker="alice", round=1, kind="failed", reason="")
REPORT = TaskResult(request_id="", worker="alice", round=1, num_examples=120)
WELCOME = Welcome(node="alice", role="worker", dataset="points", num_examples=120)
GREETINGS: list[Message] = [
    WELCOME,
    Refusal(kind="node", reason=""),
    Challenge(node="alice", nonce=SECRET, proof=SECRET),
    HELLO,
    Join(node="alice", protocol=1, instance_id=SECRET),
]
NODES: dict[str, Node] = {
    f"{type(message).__name__}.{name}, {len(text):,} characters": greets_with(hostile(message, name, text))
    for message in GREETINGS
    for name in texts(type(message))
    for text in (SHORT, HANDSHAKE)
} | {
    f"{type(message).__name__}.{name}, {len(text):,} characters": answers_with(hostile(message, name, text), name)
    for message in (FAILURE, REPORT)
    for name in texts(type(message))
    for text in (SHORT, LONG)
}


@pytest.mark.parametrize("what", NODES)
async def test_a_run_with_a_hostile_worker(
    what: str, tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    async def handle(channel: Channel) -> None:
        with contextlib.suppress(LinkError):
            await NODES[what](channel)

    told = []
    async with find_transport("memory://alice").serve("memory://alice", handle, Limits()):
        plan = settings({"alice": "memory://alice"}, rounds=1, peer_timeout=0.3)
        try:
            await fedws.run(run_dir=tmp_path / "run", **plan)
        except FedwsError as error:
            told = [str(error), *terminal(error, capsys)]
    assert told, "such a worker ends no run well"
    assert all(right(line) for line in (*lines, *told, *kept(tmp_path)))


@pytest.mark.parametrize("name", ["loss", "num_correct", "predicted_label_counts", "mine", LONG])
@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
async def test_a_run_with_a_hostile_evaluator(name: str, text: str, tmp_path: Path, lines: list[str]) -> None:
    def score(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        own = {"num_examples": 120, "loss": 1.0, "num_correct": 12, "predicted_label_counts": [12] * 10, name: text}
        return TaskResult(
            request_id=order.request_id, worker="testing", round=order.round, num_examples=120, metrics=own
        )

    async with (
        fedws.serve(worker(), "memory://alice"),
        fedws.serve(evaluating(score), "memory://testing"),
    ):
        plan = settings({"alice": "memory://alice", "testing": "memory://testing"}, rounds=1)
        await fedws.run(run_dir=tmp_path / "run", **plan)
    found = [*lines, *kept(tmp_path)]
    assert found and all(right(line) for line in found)


# ------------------------------------------------------------------ a node and its callers


@pytest.mark.parametrize("name", [*texts(TaskRequest), "settings.model", "settings.dataset", "settings.optimizer"])
@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
async def test_a_worker_and_a_hostile_order(
    name: str, text: str, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer, or the reason of the close, is fit for a terminal too."""
    monkeypatch.setattr(
        "fedws.node.node_credentials.load_default_credentials", lambda: fedws.security.credentials.INSECURE
    )
    log = audit_log.AuditLog(tmp_path / "alice.jsonl")
    node = fedws.Worker("alice", "points", Points(Path(), True), policy=DEFAULT_POLICY, audit_log=log)
    async with fedws.serve(node, "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(data(hostile(order(), name, text)))
        await socket.send(data(order(worker="bob")))  # which ends the link
        reason = await closed(socket)
    assert reason.isprintable()
    written = [line for entry in audit_chain.read_lines(log.path) for line in strings(entry)]
    assert lines and all(right(line) for line in (*lines, *written))


@pytest.mark.parametrize("name", texts(Hello))
@pytest.mark.parametrize("text", [SHORT, HOSTILE + "x" * 50, HANDSHAKE], ids=["short", "a name", "long"])
async def test_a_worker_and_a_hostile_caller(
    name: str, text: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fedws.node.node_credentials.load_default_credentials", lambda: fedws.security.credentials.INSECURE
    )
    async with fedws.serve(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await socket.send(data(hostile(HELLO, name, text)))
        await socket.send(data(HELLO))
        assert (await closed(socket)).isprintable()
    assert lines and all(right(line) for line in lines)


def test_every_message_is_among_the_attacks() -> None:
    """This includes messages that are added later."""
    tried = {type(message) for message in GREETINGS} | {TaskFailure, TaskResult, TaskRequest, Hello}
    assert {kind for kind in MESSAGE_TYPES.values() if texts(kind)} <= tried
