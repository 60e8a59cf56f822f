"""A member that has seen a run's public ids cannot take its workers over, or get what they keep of it."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core.errors import LinkError
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.answer_cache import AnswerCache
from fedws.node.server import serve
from fedws.node.worker import Worker
from fedws.object_store.backends.file import FileStore
from fedws.object_store.base import BodyStore
from fedws.privacy import audit_chain, audit_entry, audit_log, audit_verify
from fedws.privacy.policy import Policy
from fedws.protocol import encoder, handshake
from fedws.protocol.messages import Challenge, Hello, Proof, Refusal, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.protocol.run_claim import derive_public_key, derive_takeover_key
from fedws.recording.run_directory import RunDirectory
from fedws.security.credentials import INSECURE
from tests.helpers.federation import PATIENCE, happens, settings
from tests.helpers.keyed_runs import KEY, SECRET
from tests.helpers.virtual_runs import DATA
from tests.helpers.virtual_time import virtual

VICTIM, THIEF = derive_takeover_key(bytes(32), "alice"), derive_takeover_key(b"\1" * 32, "alice")
BODY = {"x": torch.arange(400_000.0)}  # more than one chunk, so that it has a digest


class Counted:
    """A task that returns a tensor, and how often it ran."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        self.times += 1
        return workspace.build_result(order, {"times": self.times}, {"y": torch.ones(2)})


def request(request_id: str, sent: bool = True) -> TaskRequest:
    return TaskRequest(request_id=request_id, worker="alice", round=1, task="fedavg.fit", tensors=BODY if sent else {})


@contextlib.asynccontextmanager
async def alice(folder: Path, **policy: Any) -> AsyncIterator[tuple[str, Counted, Path]]:
    """Serve a worker with an audit log; give its address, its task and the log."""
    log, task = folder / "alice.jsonl", Counted()
    node = Worker(
        "alice", "points", DATA, tasks={"fedavg.fit": task}, policy=Policy(**policy), audit_log=audit_log.AuditLog(log)
    )
    async with fedws.serve(node, "ws://localhost:0", credentials=KEY) as url:
        yield url, task, log


async def challenged(url: str, run: str = "cafe", max_message: int = 2**30) -> tuple[Channel, Challenge, Hello]:
    """Connect, and say hello."""
    nonce = handshake.create_nonce()
    hello = Hello(run=run, node="alice", protocol=encoder.PROTOCOL_VERSION, nonce=nonce, max_message_bytes=max_message)
    channel = await find_transport(url).connect(url, Limits())
    await channel.send(hello)
    challenge = await channel.receive()
    assert isinstance(challenge, Challenge)
    return channel, challenge, hello


@contextlib.asynccontextmanager
async def link(
    url: str, secret: str, run: str = "cafe", max_message: int = 2**30
) -> AsyncIterator[tuple[Channel, Welcome | Refusal]]:
    """Connect as the coordinator of a run, with its private key for alice; give the end of the handshake."""
    async with asyncio.timeout(PATIENCE):
        channel, challenge, hello = await challenged(url, run, max_message)
        try:
            await channel.send(handshake.create_proof(SECRET, hello, challenge, secret))
            answer = await channel.receive()
            assert isinstance(answer, Welcome | Refusal)
            channel.mark_authenticated()
            yield channel, answer
        finally:
            await channel.close()


@contextlib.asynccontextmanager
async def welcomed(url: str, secret: str, **more: Any) -> AsyncIterator[tuple[Channel, Welcome]]:
    """Connect until the node has ended the link before."""
    while True:
        async with link(url, secret, **more) as (channel, answer):
            if isinstance(answer, Welcome):
                yield channel, answer
                return


async def answer(channel: Channel, order: TaskRequest) -> TaskResult:
    await channel.send(order)
    report = await channel.receive()
    assert isinstance(report, TaskResult), report
    return report


def lines(log: Path) -> list[tuple[str, bool]]:
    """What each line of an audit log says left, and whether it had left before."""
    return [(line["payload"], line["resent"]) for line in audit_chain.read_lines(log) if line is not None]


async def test_ids_alone_take_nothing_over(tmp_path: Path) -> None:
    async with alice(tmp_path) as (url, _, _), link(url, VICTIM) as (channel, welcome):
        assert isinstance(welcome, Welcome)
        async with link(url, THIEF) as (_, refused):
            assert isinstance(refused, Refusal) and refused.kind == "busy"
            assert VICTIM[:8] not in refused.reason
        assert (await answer(channel, request("1"))).metrics == {"times": 1}, "the victim's link stays"


async def test_a_handshake_that_a_member_has_heard_takes_nothing_over(tmp_path: Path) -> None:
    """As a client of the broker does, or one that has joined the run under the worker's name."""
    async with alice(tmp_path) as (url, _, _), link(url, VICTIM) as (channel, welcome):
        assert isinstance(welcome, Welcome)
        heard = derive_public_key(VICTIM)
        thief, challenge, called = await challenged(url)
        signature = handshake.create_proof(SECRET, called, challenge, THIEF).signature
        own = handshake.compute_proof(SECRET, "coordinator", called, "alice", challenge.nonce, heard)
        await thief.send(Proof(proof=own, takeover_key=heard, signature=signature))
        refused = await thief.receive()
        assert isinstance(refused, Refusal) and refused.kind == "key"
        await thief.close()
        assert (await answer(channel, request("1"))).metrics == {"times": 1}, "the victim's link stays"


async def test_a_thief_finds_nothing_of_the_run_before(tmp_path: Path) -> None:
    async with alice(tmp_path) as (url, task, log):
        async with link(url, VICTIM) as (channel, _):
            await answer(channel, request("1"))
        async with welcomed(url, THIEF) as (channel, welcome):
            assert welcome.resume_offsets == {}, "not even that a body is there"
            assert (await answer(channel, request("2"))).metrics == {"times": 2}, "computed for itself"
        async with welcomed(url, VICTIM) as (channel, _):
            assert (await answer(channel, request("3"))).metrics == {"times": 3}, "and the other way round"
    assert task.times == 3 and lines(log) == [("tensors", False)] * 3


async def test_every_send_is_a_line_of_the_audit_log_and_counts_once(tmp_path: Path) -> None:
    async with alice(tmp_path, max_answers_per_day=1) as (url, task, log):
        async with link(url, VICTIM) as (channel, _):
            first = await answer(channel, request("1"))
        for number in ("2", "3"):
            async with welcomed(url, VICTIM) as (channel, welcome):
                assert list(welcome.resume_offsets.values()) == [BODY["x"].nbytes]
                again = await answer(channel, request(number))
                assert (again.metrics, again.request_id) == (first.metrics, number)
    assert task.times == 1
    assert lines(log) == [("tensors", False), ("tensors", True), ("tensors", True)]
    assert audit_verify.verify_log(log)[1] == []


async def test_a_repeated_answer_does_not_leave_without_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError("the disk is full")

    async with alice(tmp_path) as (url, _, _):
        async with link(url, VICTIM) as (channel, _):
            await answer(channel, request("1"))
        monkeypatch.setattr(audit_log.AuditLog, "append", full)
        async with welcomed(url, VICTIM) as (channel, _):
            await channel.send(request("2"))
            failure = await channel.receive()
            assert getattr(failure, "reason", "") == "cannot write the audit log, so no answer is sent"


class Held:
    """Holds back the node's thread as it writes a line of the audit log, until the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        add = audit_log.AuditLog.append

        def held(log: audit_log.AuditLog, entry: audit_entry.AuditEntry) -> None:
            if entry.resent:
                self.entered.set()
                assert self.opened.wait(PATIENCE)
            add(log, entry)

        monkeypatch.setattr(audit_log.AuditLog, "append", held)


async def cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Have a request answered, repeat it on a new link, and lose that link while the line is being written."""
    async with link(url, VICTIM) as (channel, _):
        await answer(channel, request("1"))
    held = Held(monkeypatch)
    async with welcomed(url, VICTIM) as (channel, _):
        await channel.send(request("2"))
        await happens(held.entered)
    return held


async def test_a_repeated_answer_is_written_down_before_another_run_gets_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its line would name the other run."""
    async with alice(tmp_path) as (url, _, log):
        held = await cut_off(url, monkeypatch)
        async with link(url, THIEF, run="beef") as (_, refused):
            assert isinstance(refused, Refusal) and refused.kind == "busy"
        held.opened.set()
        async with welcomed(url, THIEF, run="beef") as (channel, _):
            await answer(channel, request("3"))
    assert [(line["run"], line["request_id"]) for line in audit_chain.read_lines(log) if line] == [
        ("cafe", "1"),
        ("cafe", "2"),
        ("beef", "3"),
    ]


async def test_a_repeated_answer_that_is_cut_off_is_repeated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alice(tmp_path, max_answers_per_day=1) as (url, task, log):
        held = await cut_off(url, monkeypatch)
        held.opened.set()
        async with welcomed(url, VICTIM) as (channel, _):
            await answer(channel, request("3"))
    assert task.times == 1 and lines(log) == [("tensors", False), ("tensors", True), ("tensors", True)]


async def test_a_failure_in_place_of_a_report_is_a_line_of_the_audit_log_too(tmp_path: Path) -> None:
    """The report fits what the coordinator accepts until its header gets the digest of its body."""

    def large(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        return workspace.build_result(order, {}, BODY)

    log = tmp_path / "alice.jsonl"
    node = Worker("alice", "points", DATA, tasks={"fedavg.fit": large}, audit_log=audit_log.AuditLog(log))
    async with fedws.serve(node, "ws://localhost:0", credentials=KEY) as url:
        async with link(url, VICTIM) as (channel, _):
            size = encoder.encode_message(await answer(channel, request("1"))).size
        async with welcomed(url, THIEF, max_message=size) as (channel, _):
            await channel.send(request("2"))
            failure = await channel.receive()
            assert isinstance(failure, TaskFailure) and failure.code == "permanent"
    last = [line for line in audit_chain.read_lines(log) if line][-1]
    assert (last["outcome"], last["request_id"], last["reason"]) == ("refused", "2", failure.reason[:200])


@virtual
async def test_what_is_kept_is_forgotten_also_after_a_link_that_got_no_welcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A coordinator that accepts less than a welcome has its link closed before any request."""
    left = []
    monkeypatch.setattr(AnswerCache, "clear", lambda self: left.append(asyncio.get_running_loop().time()))
    node, limits = Worker("alice", "points", DATA), Limits(peer_timeout=60.0)
    async with serve(node, "memory://alice", limits, INSECURE):
        for most in (2**20, 10):
            channel = await find_transport("memory://alice").connect("memory://alice", limits)
            await channel.send(
                Hello(run="cafe", node="alice", protocol=encoder.PROTOCOL_VERSION, max_message_bytes=most)
            )
            with contextlib.suppress(LinkError):
                await channel.receive()
            await channel.close()
        left.clear()
        await asyncio.sleep(601)
        assert len(left) == 1


def texts(folder: Path) -> Iterator[str]:
    """Yield the path and the content of every file."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder))
        if path.is_file() and path.name != "run.json":
            yield path.read_bytes().decode("latin-1")


async def test_no_part_of_a_secret_is_in_a_log_or_a_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shelf = BodyStore(FileStore((tmp_path / "store").as_uri(), 5), min_bytes=16)
    node = Worker(
        "alice", "points", DATA, state_dir=tmp_path / "state", audit_log=audit_log.AuditLog(tmp_path / "alice.jsonl")
    )
    (tmp_path / "store").mkdir()
    async with fedws.serve(node, "ws://localhost:0", credentials=KEY, body_store=shelf) as url:
        await fedws.run(run_dir=tmp_path / "run", credentials=KEY, body_store=shelf, **settings({"alice": url}))
    held = RunDirectory.open_existing(tmp_path / "run")
    secrets = [held.secret.hex(), derive_takeover_key(held.secret, "alice")]
    held.close()
    assert held.secret.hex() in (tmp_path / "run" / "run.json").read_text()
    for text in (*texts(tmp_path), caplog.text):
        assert not any(secret[at : at + 8] in text for secret in secrets for at in range(57))
